"""Run by every kernel of `make lab` at its start: say in one line that the set-up has not been run."""

from IPython import get_ipython

SETUP = ("PROFILE", "dgm_utils", "torch", "setting")  # what the set-up cells of every seminar define


def explain(shell, kind, error, traceback, tb_offset=None):
    """Show one line for a name that is missing because the set-up is, the traceback for any other."""
    if all(name in shell.user_ns for name in SETUP):
        shell.showtraceback((kind, error, traceback), tb_offset=tb_offset, running_compiled_code=True)
    else:
        line = (
            f"{error}: this kernel has not run the set-up. F8 runs all cells above this one, set-up included."
        )
        shell._showtraceback(kind, error, [line])


get_ipython().set_custom_exc((NameError,), explain)
