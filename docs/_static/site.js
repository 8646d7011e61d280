// A formula wider than its column scrolls in a box of its own, which the keyboard must reach.
addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  const mark = () => {
    for (const box of document.querySelectorAll("mjx-container[display]")) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  mark();
  addEventListener("resize", mark);
});

// Paper is white: what is printed in dark mode would be light grey on it.
const { dataset } = document.documentElement;
let shown;
addEventListener("beforeprint", () => { shown = dataset.theme; dataset.theme = "light"; });
addEventListener("afterprint", () => { dataset.theme = shown; });
