# <img src=x onerror=alert(1)> puts active content into everything that a page could show.
# ruff: noqa
print("<script>alert(1)</script><img src=x onerror=alert(1)>")
print("\x1b]8;;javascript:alert(1)\x07click\x1b]8;;\x07\u202etxt.exe\u202c")
from IPython.display import HTML, display

display(HTML("<script>alert(2)</script>"))
raise ValueError("</pre><script>alert(3)</script><a href='javascript:alert(4)'>x</a>")
