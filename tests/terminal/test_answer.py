from fromage_cli.terminal.answer import Answer, Provenance, provenance_of_all


def computed(provenance: Provenance | None) -> Answer:
    return Answer(1, lambda style: "", provenance=provenance)


def test_evaluations_add_up_and_the_network_tells_where() -> None:
    files, network = Provenance("cpu", "float64"), Provenance("cuda:0", "float32", 2.0, 3.0, 4.0, 50, 60)
    other = Provenance("cuda:1", "float32", 1.0, 0.0, 0.0, 70, 10)
    whole = provenance_of_all(map(computed, (other, network, files, None)))
    assert whole == Provenance("cuda:0", "float32", 3.0, 3.0, 4.0, 70, 60)
    assert provenance_of_all([computed(files)]) == files == provenance_of_all([])
