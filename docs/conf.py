"""How Sphinx lays out the site. `tools/site.py` gathers the pages and calls it: `make site`."""

from tools import course

HOME = course.home()

project = "Deep Generative Models"
author = copyright = "the course's teachers"
root_doc = "index"
extensions = ["myst_nb"]
nb_execution_mode = "off"  # the outputs are those that the notebooks hold
nb_code_prompt_show = "Show the {type}"
nb_code_prompt_hide = "Hide the {type}"
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_dmath_double_inline = True  # a formula in $$ may stand in the middle of a paragraph, as in Jupyter
myst_heading_anchors = 4

html_theme = "sphinx_book_theme"
html_title = "Deep Generative Models"
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}  # dark where the reader's machine is
html_css_files = ["site.css", "sliders.css"]
html_js_files = ["site.js", ("sliders.js", {"defer": "defer"})]  # figures are there when it runs
html_show_sphinx = False
html_theme_options = {
    "repository_url": "https://github.com/{owner}/{repository}".format(**HOME),
    "repository_branch": HOME["branch"],
    "use_repository_button": True,
    "use_issues_button": True,
    "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    "home_page_in_toc": True,
    "navbar_persistent": [],
    "show_toc_level": 2,
}

# MathJax and its font are files of ours. No menu and no speech: they would fetch from elsewhere. A screen
# reader reads the MathML that stands unseen beside each formula.
mathjax_path = "mathjax/startup.js"
mathjax4_config = {
    "loader": {
        "load": ["core", "input/tex", "output/chtml", "a11y/assistive-mml"],
        "paths": {"fonts": "[mathjax]"},
        "versionWarnings": False,  # the newest font names 4.1.1, the newest program 4.1.3
    },
    "output": {"font": "mathjax-tex", "displayOverflow": "linebreak"},
}
