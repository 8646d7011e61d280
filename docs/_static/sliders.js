// What a slider of a notebook does without a kernel: each position shows the picture that was stored for it.
for (const figure of document.querySelectorAll("figure.slider")) {
  const frames = JSON.parse(figure.dataset.frames); // [file, alternative text], the last control fastest
  const picture = figure.querySelector("img");
  const controls = [...figure.querySelectorAll("input")];

  const show = () => {
    let number = 0;
    for (const control of controls) {
      const box = control.type === "checkbox";
      number = box ? 2 * number + control.checked : (Number(control.max) + 1) * number + Number(control.value);
      if (!box) {
        const value = JSON.parse(control.dataset.values)[control.value];
        control.setAttribute("aria-valuetext", value);
        control.nextElementSibling.value = value; // the <output>
      }
    }
    const [file, alt] = frames[number];
    picture.src = new URL(file, picture.src);
    picture.alt = alt;
  };

  // Who reaches for a control will move it: with all pictures at hand it follows at once.
  const fetchAll = () => frames.forEach(([file]) => (new Image().src = new URL(file, picture.src)));
  for (const event of ["pointerenter", "focusin"]) figure.addEventListener(event, fetchAll, { once: true });

  figure.addEventListener("input", show);
  figure.querySelector(".slider-controls").hidden = false;
}
