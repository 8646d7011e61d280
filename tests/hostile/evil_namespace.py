# Puts keys into its namespace that run code when they are compared, and hooks into IPython.
# ruff: noqa
import time


class Key(str):
    def __hash__(self):
        return hash("softmax")

    def __eq__(self, other):
        time.sleep(100)
        raise SystemExit("GOT the runner")


globals()[Key("mine")] = 1
shell = get_ipython()
shell.events.register("post_run_cell", lambda *result: time.sleep(100))
shell.run_cell = lambda *arguments, **keywords: None
