"""How the heavy modules are imported."""

import gc
import warnings

import pytest

from p2ptrain.cli.processes import quiet_imports


def test_nobody_looks_for_garbage_meanwhile_and_never_again_among_what_was_defined() -> None:
    gc.unfreeze()
    try:
        with quiet_imports():
            assert not gc.isenabled()
            made = [object]
        assert gc.isenabled()
        assert gc.get_freeze_count() > 1000
        assert not any(made is one for one in gc.get_objects()), "which are those that garbage is looked for among"
    finally:
        gc.unfreeze()


def test_an_import_that_fails_leaves_nothing_switched_off(recwarn: pytest.WarningsRecorder) -> None:
    def imports() -> None:
        with quiet_imports():
            warnings.warn("of a library about another one", stacklevel=1)
            raise ImportError("of a package that is not there")

    with pytest.raises(ImportError):
        imports()
    gc.unfreeze()
    assert gc.isenabled()
    assert not recwarn.list
    with pytest.warns(UserWarning, match="of ours"):
        warnings.warn("of ours", stacklevel=1)
