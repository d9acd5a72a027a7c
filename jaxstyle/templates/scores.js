// The script of the section of scores: it shows the picture of a chosen point beside the plots. It runs before
// the page's own script, which takes the pictures of the cells away to its sheet.
"use strict";
(() => {
  /** @type {PageData} */
  const run = JSON.parse(document.getElementById("run").textContent);
  /** @type {NodeListOf<HTMLImageElement>} */
  const figures = document.querySelectorAll("#tiles figure img");
  const small = new Map(run.tiles.cell.map((cell, index) => [String(cell), figures[index]?.src]));
  const panel = document.getElementById("scored");
  const sections = [...document.querySelectorAll("nav a")].map((link) => /** @type {HTMLElement} */ (link).dataset.view);
  const points = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("#scores a.point")]);

  function show(point) {
    for (const other of points) other.classList.toggle("chosen", other === point);
    const cell = point.dataset.cell;
    const text = point.querySelector("title").textContent;
    const picture = document.createElement("img");
    picture.alt = `cell ${cell}`;
    const thumbnail = small.get(cell);
    const file = point.getAttribute("href");
    picture.src = thumbnail ?? file;
    if (thumbnail) {
      const large = new Image(); // the full picture if the page lies in its run
      large.onload = () => (picture.src = large.src);
      large.src = file;
    }
    const about = document.createElement("p");
    about.textContent = text;
    panel.replaceChildren(picture, about);
    if (thumbnail) {
      const link = document.createElement("a");
      link.href = `#a=${cell}`;
      link.textContent = "Compare it with others";
      link.addEventListener("click", () => {
        const view = new URLSearchParams(location.hash.slice(1)); // the rest of it stays as it is
        for (const name of ["view", "b", ...sections]) view.delete(name);
        view.set("a", cell);
        link.href = `#${view}`;
      });
      panel.append(link);
    }
    panel.hidden = false;
  }

  for (const point of points) {
    point.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      show(point);
    });
  }
  const first = document.querySelector("#scores a.first") ?? points[0];
  if (first) show(first);
})();
