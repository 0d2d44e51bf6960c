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
        ("mypackage.Config", "unknown"),
        ("omegaconf.DictConfig", "unknown"),
        ("ostrich.system", "unknown"),
        ("sympy.sympify", "unknown"),
        ("typing._eval_type", "unknown"),
        ("functools.partial", "unknown"),
        ("functools.reduce", "dangerous"),
        ("setup_tools.__main__.f", "dangerous"),
        ("torch.nn.modules.linear.Linear", "inert"),
        ("torch.nn.modules.module._something", "unknown"),
        ("torch.optim.adam.Adam", "inert"),
    ],
)
def test_verdicts(dotted, expected):
    module, _, name = dotted.rpartition(".")
    if dotted.startswith("builtins.getattr."):
        module, name = "builtins", "getattr.__self__"
    assert verdict(PickledName(module, name, ("import",))) == expected


@pytest.mark.parametrize(
    ("module", "name", "uses", "expected"),
    [
        ("torch", "os.system", ("import", "call"), "dangerous"),
        ("random", "_os.system", ("import",), "dangerous"),
        ("builtins", "print.__self__.eval", ("import", "call"), "dangerous"),
        ("logging", "os.system", ("import", "call"), "dangerous"),
        ("numpy", "ndarray.tofile", ("import", "call"), "dangerous"),
        ("torch", "Tensor.numpy", ("import", "call"), "dangerous"),
        ("collections", "OrderedDict.fromkeys", ("import", "call"), "dangerous"),
        ("torch.storage", "UntypedStorage.from_file", ("import", "call"), "dangerous"),
        ("mypackage", "Outer.Inner", ("import", "create"), "unknown"),
        ("collections", "OrderedDict", ("import", "change"), "dangerous"),
        ("mypackage", "Config", ("import", "change"), "dangerous"),
    ],
)
def test_ways_through_attributes_and_changes_are_dangerous(module, name, uses, expected):
    assert verdict(PickledName(module, name, uses)) == expected


def test_what_is_said():
    names = [PickledName("os", "system", ("import", "call")), PickledName("mypackage", "Config", ("import",))]
    assert dangerous(names) == ["os.system"]
    running, unknown = warnings_about(names)
    assert "would run 'os.system'" in running
    assert "'mypackage.Config'" in unknown
    assert warnings_about([PickledName("torch", "Size", ("import", "call"))]) == ()
