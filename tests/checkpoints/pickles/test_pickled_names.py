import pytest

from fromage_cli.checkpoints.pickles.pickled_names import dangerous, verdict, warnings_about
from fromage_cli.checkpoints.pickles.unpickling import PickledName


@pytest.mark.parametrize(
    ("dotted", "expected"),
    [
        ("torch._utils._rebuild_tensor_v2", "allowed"),
        ("torch.bfloat16", "allowed"),
        ("torch.FloatStorage", "allowed"),
        ("collections.OrderedDict", "allowed"),
        ("numpy._core.multiarray.scalar", "allowed"),
        ("os.system", "dangerous"),
        ("posix.system", "dangerous"),
        ("subprocess.Popen", "dangerous"),
        ("builtins.eval", "dangerous"),
        ("__builtin__.getattr", "dangerous"),
        ("builtins.getattr.__self__", "dangerous"),
        ("importlib.import_module", "dangerous"),
        ("pickle.loads", "dangerous"),
        ("torch.load", "dangerous"),
        ("torch.hub.load", "dangerous"),
        ("torch.jit.load", "dangerous"),
        ("operator.attrgetter", "dangerous"),
        ("_osx_support._read_output", "dangerous"),
        ("sqlite3.connect", "dangerous"),
        ("uuid._get_command_stdout", "dangerous"),
        ("numpy.fromfile", "dangerous"),
        ("logging.FileHandler", "dangerous"),
        ("numpy.loadtxt", "dangerous"),
        ("aiohttp.request", "dangerous"),
        ("httplib.HTTPSConnection", "dangerous"),
        ("torch.utils.bottleneck.__main__.run_cprofile", "dangerous"),
        ("torch.utils.data.datapipes.utils.decoder.basichandlers", "dangerous"),
        ("uuid.UUID", "inert"),
        ("pathlib.PosixPath", "inert"),
        ("mypackage.Config", "inert"),
        ("omegaconf.DictConfig", "inert"),
        ("ostrich.system", "inert"),
    ],
)
def test_verdicts(dotted, expected):
    module, _, name = dotted.rpartition(".")
    if dotted.startswith("builtins.getattr."):
        module, name = "builtins", "getattr.__self__"
    assert verdict(PickledName(module, name, ("import",))) == expected


def test_what_is_said():
    names = [PickledName("os", "system", ("import", "call")), PickledName("mypackage", "Config", ("import",))]
    assert dangerous(names) == ["os.system"]
    running, unknown = warnings_about(names)
    assert "would run 'os.system'" in running
    assert "'mypackage.Config'" in unknown
    assert warnings_about([PickledName("torch", "Size", ("import", "call"))]) == ()
