// What tests/browser.py asks of the page: start a presentation, go on by one state, measure what is on stage.
"use strict";

window.stage = (() => {
  const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
  const panel = () => window.jupyterapp.shell.currentWidget;
  const cells = () => panel().content.widgets;
  const isVisible = (cell) => cell.node.classList.contains("jp-deck-mod-visible");
  const onStage = () => cells().filter((cell) => cell.node.classList.contains("jp-deck-mod-onscreen"));
  const visible = () => onStage().filter(isVisible);
  const isShown = (node) => node.checkVisibility({ contentVisibilityAuto: true }) && node.clientHeight > 0;
  const all = (cell, selector) => [...cell.node.querySelectorAll(selector)].filter(isShown);

  async function until(condition, what, seconds = 300) {
    const end = performance.now() + 1000 * seconds;
    while (!condition()) {
      if (performance.now() > end) throw new Error(`waited ${seconds} s for ${what}`);
      await frame();
    }
  }

  // Open without a kernel: outputs are stored, and a kernel would take the time of the walk.
  async function open(path) {
    await until(() => window.jupyterapp?.commands.hasCommand("deck:start"), "JupyterLab and its deck");
    const app = window.jupyterapp;
    await app.restored;
    const kernelPreference = { shouldStart: false, canStart: false, autoStartDefault: false };
    const opened = await app.commands.execute("docmanager:open", { path, factory: "Notebook", kernelPreference });
    await opened.context.ready;
    await opened.revealed;
    app.shell.activateById(opened.id);
  }

  async function start() {
    const { commands } = window.jupyterapp;
    if (document.body.dataset.jpDeckMode) await commands.execute("deck:stop");
    await commands.execute("deck:start");
    await until(() => document.body.dataset.jpDeckMode === "presenting" && visible().length, "the deck");
    panel().content.activeCellIndex = 0;
    // A picture is taken of where a state ends, not of how it comes.
    const still = document.createElement("style");
    still.textContent = "* { transition: none !important; animation: none !important; caret-color: transparent }";
    document.head.append(still);
    await settled();
  }

  // Formulas are written as $…$ in the source, code apart, and stand as mjx-container when they are set.
  const hasFormula = (cell) =>
    cell.model.type === "markdown" && /\$/.test(cell.model.sharedModel.source.replace(/`+[^`]*`+/g, ""));
  function isReady(cell) {
    if (cell.isPlaceholder?.() || !cell.inputArea) return false;
    if (hasFormula(cell) && !cell.node.querySelector("mjx-container")) return false;
    return [...cell.node.querySelectorAll("img")].every((image) => image.complete);
  }
  const layout = () =>
    onStage().map(({ node }) => node.getBoundingClientRect()).map(({ y, height }) => [y, height]).join(" ");

  // Everything drawn and set, and nothing has moved for two frames.
  async function settled() {
    await until(() => onStage().every(isReady), "formulas and pictures");
    await document.fonts.ready;
    for (let same = 0, before = ""; same < 2; before = layout()) {
      await frame();
      same = layout() === before ? same + 1 : 0;
    }
  }

  // One state on, down, or forward where nothing is below. False at the end.
  async function next() {
    const before = panel().content.activeCellIndex;
    await window.jupyterapp.commands.execute("deck:go", { direction: "down", alternate: "forward" });
    await frame();
    if (panel().content.activeCellIndex === before) return false;
    await settled();
    return true;
  }

  // ------------------------------------------------------------------------------------------- measures
  const name = (node) => node.className?.toString().split(" ")[0] || node.localName;

  // From the top of the slide to the lowest edge of what is visible: more than the screen has is cut.
  function height() {
    const boxes = visible().flatMap((cell) => all(cell, ".jp-Cell-inputWrapper, .jp-Cell-outputWrapper"));
    const edges = boxes.map((node) => node.getBoundingClientRect());
    const top = Math.min(...onStage().map(({ node }) => node.getBoundingClientRect().top));
    return Math.max(...edges.map(({ bottom }) => bottom)) - top;
  }

  const scrollsSideways = (node) =>
    node.scrollWidth > node.clientWidth + 1 && ["auto", "scroll"].includes(getComputedStyle(node).overflowX);

  function codeLines(cell) {
    const blocks = all(cell, ".jp-MarkdownOutput pre").map((node) => node.innerText);
    const isCode = cell.model.type === "code" && !cell.inputHidden;
    const texts = isCode ? [cell.model.sharedModel.source] : blocks;
    return texts.flatMap((text) => text.split("\n"));
  }

  // Lines of code that stand on two lines of the slide.
  function wrappedLines(cell) {
    const heights = all(cell, ".jp-InputArea-editor .cm-line").map((line) => line.getBoundingClientRect().height);
    return heights.filter((height) => height > 1.5 * Math.min(...heights)).length;
  }

  // Words of printed text that stand on two lines. A line may end at a space or after a hyphen or a slash.
  function brokenWords(pre) {
    const found = [];
    const walker = document.createTreeWalker(pre, NodeFilter.SHOW_TEXT);
    const range = document.createRange();
    while (walker.nextNode()) {
      for (const match of walker.currentNode.data.matchAll(/\S+/g)) {
        const word = match[0];
        const topOf = (k) => {
          range.setStart(walker.currentNode, match.index + k);
          range.setEnd(walker.currentNode, match.index + k + 1);
          return range.getBoundingClientRect().top;
        };
        if (topOf(0) === topOf(word.length - 1)) continue;
        const tops = [...word].map((_, k) => topOf(k));
        if (tops.some((top, k) => k && top - tops[k - 1] > 5 && !/[-–—/]/.test(word[k - 1]))) found.push(word);
      }
    }
    return found;
  }

  function pictures(cell) {
    return all(cell, ".jp-OutputArea-output img").map((image) => ({
      scale: image.getBoundingClientRect().width / image.naturalWidth,
      source: image.src,
    }));
  }

  function measure() {
    const pages = [document.documentElement, ...document.querySelectorAll(".jp-Notebook, .jp-WindowedPanel-outer")];
    return {
      active: panel().content.activeCell.model.id,
      kind: panel().content.activeCell.model.getMetadata("slideshow")?.slide_type ?? null,
      height: height(),
      page: pages.filter(scrollsSideways).map(name),
      cells: visible().map((cell) => ({
        id: cell.model.id,
        source: cell.model.sharedModel.source,
        sideways: all(cell, "*")
          .filter(scrollsSideways)
          .map((node) => [name(node), node.scrollWidth - node.clientWidth]),
        lines: codeLines(cell),
        wrapped: wrappedLines(cell),
        broken: all(cell, ".jp-OutputArea-output pre").flatMap(brokenWords),
        pictures: pictures(cell),
      })),
    };
  }

  return { open, start, next, measure };
})();
