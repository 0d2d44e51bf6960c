from fromage_cli.checkpoints.storage.sharing import are_shared, kept, reads_shared


def test_what_is_kept_ends_with_the_context():
    kept()["a"] = 1
    assert not are_shared() and kept() == {}
    with reads_shared():
        kept()["a"] = 1
        assert are_shared() and kept() == {"a": 1}
        with reads_shared(share=False):
            assert not are_shared() and kept() == {}
        assert kept() == {"a": 1}
    assert kept() == {}
