// The script of a run's page. The state of the view is in the location's hash, so that it can be saved or sent:
//   view    pictures, curves, variance, table, settings or manifest
//   layout  table or wall;  rows, cols, pages: axes, joined by commas;  at.AXIS: the value shown of a page axis
//   hide.AXIS  values left out;  only: done or diverged;  sort, across: an axis or a loss, - for descending
//   order   the order of the table of cells: one of its columns, - for descending
//   size    the size of a picture in px;  a, b: the cells compared, CELL or CELL@STEP;  mode: side or wipe
//   wipe    0 to 100, the place of the wipe;  theme: light or dark
"use strict";
(() => {
  /** @type {PageData} */
  const run = JSON.parse(document.getElementById("run").textContent);
  const root = document.documentElement;
  const $ = (id) => document.getElementById(id);
  const all = (from, selector) => /** @type {HTMLElement[]} */ ([...from.querySelectorAll(selector)]);
  const aim = (event) => /** @type {HTMLElement} */ (event.target);
  const LOSSES = run.losses; // titles of the curves, by name
  const dims = run.dimensions.map((about, index) => ({ ...about, index, at: run.tiles.at[index] }));
  const dimOf = new Map(dims.map((dim) => [dim.id, dim]));
  const cellIndex = new Map(run.cells.cell.map((cell, index) => [cell, index]));
  const EDGE_PX = 10;
  const collator = new Intl.Collator("en", { numeric: true });
  const heads = [...document.querySelectorAll(".plain .heads img")].map((image) => image.getAttribute("src"));
  const views = all(document, "nav a").map((link) => link.dataset.view);

  // Make an element with properties and children; texts become text nodes, never markup.
  function el(tag, properties = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in made && !name.includes("-")) made[name] = value;
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  // --- tiles ---------------------------------------------------------------------------------------

  const last = run.snapshots.length - 1;
  const tiles = [...document.querySelectorAll("#tiles figure")].map((figure, index) => {
    const image = figure.querySelector("img");
    const cell = run.tiles.cell[index];
    const snapshot = run.tiles.snapshot[index];
    const number = String(cell).padStart(6, "0");
    const step = String(run.snapshots[snapshot]).padStart(6, "0");
    const text = figure.querySelector("figcaption").textContent;
    const diverged = run.cells.diverged[cellIndex.get(cell)];
    const button = el("button", { type: "button", className: "tile", tabIndex: -1 }, image, el("span", {}, text));
    button.dataset.index = index;
    button.dataset.cell = cell;
    return {
      index, cell, snapshot, image, text, diverged, button,
      key: snapshot === last ? String(cell) : `${cell}@${run.snapshots[snapshot]}`,
      file: snapshot === last ? `images/${number}.png` : `images/${number}-step${step}.png`,
    };
  });
  const tileOf = new Map(tiles.map((tile) => [tile.key, tile]));
  const anyDiverged = tiles.some((tile) => tile.diverged >= 0);
  const shapes = new Set(run.cells.size);
  const [boxWidth, boxHeight] =
    shapes.size === 1 ? [...shapes][0].split(" × ").map(Number) : [1, 1];
  // The size in px of the pictures that the page contains.
  const natural = tiles.length ? Math.max(tiles[0].image.width, tiles[0].image.height) : 0;

  // --- state ---------------------------------------------------------------------------------------

let state;

  // A single axis is no table at first; one is offered, with few values across and many down.
  const ids = dims.map((dim) => dim.id);
  const [down, across] = run.across.length ? [run.down, run.across] : dims[0]?.values.length > 12 ? [ids, []] : [[], ids];
  const holes = dims.reduce((count, dim) => count * dim.values.length, 1) - tiles.length;

  function start() {
    return {
      view: "pictures",
      layout: run.across.length && holes < Math.max(20_000, 20 * tiles.length) ? "table" : "wall",
      rows: [...down], cols: [...across], pages: [],
      at: {}, hide: {}, only: "", sort: "", across: "", order: "",
      size: 0, a: "", b: "", mode: "side", wipe: 50, theme: "",
    };
  }

  function read() {
    const found = start();
    const given = new URLSearchParams(location.hash.slice(1));
    for (const name of given.keys()) if (views.includes(name)) found.view = name;
    const choice = (name, allowed) => {
      if (allowed.includes(given.get(name))) found[name] = given.get(name);
    };
    const axes = (name) => (given.get(name) ?? "").split(",").filter(Boolean);
    choice("view", views);
    choice("layout", ["table", "wall"]);
    choice("mode", ["side", "wipe"]);
    choice("theme", ["light", "dark"]);
    choice("only", ["done", "diverged"]);
    const wells = ["rows", "cols", "pages"];
    if (wells.some((name) => given.has(name)) && wells.flatMap(axes).every((id) => dimOf.has(id))) {
      const taken = new Set();
      for (const name of ["rows", "cols", "pages"]) {
        found[name] = axes(name).filter((id) => !taken.has(id) && taken.add(id));
      }
      found.pages.push(...dims.map((dim) => dim.id).filter((id) => !taken.has(id)));
    }
    for (const name of ["sort", "across"]) {
      const key = (given.get(name) ?? "").replace(/^-/, "");
      if (Object.hasOwn(LOSSES, key) || dimOf.has(key)) found[name] = given.get(name);
    }
    if (columns().some(({ key }) => key === (given.get("order") ?? "").replace(/^-/, ""))) found.order = given.get("order");
    for (const dim of dims) {
      const at = Number(given.get(`at.${dim.id}`));
      if (at > 0 && at < dim.values.length) found.at[dim.id] = Math.floor(at);
      const hidden = (given.get(`hide.${dim.id}`) ?? "").split(",").filter(Boolean).map(Number);
      const valid = hidden.filter((value) => Number.isInteger(value) && value >= 0 && value < dim.values.length);
      if (valid.length) found.hide[dim.id] = new Set(valid);
    }
    const size = Number(given.get("size"));
    if (size >= 16 && size <= 640) found.size = size;
    const wipe = Number(given.get("wipe") ?? 50);
    if (wipe >= 0 && wipe <= 100) found.wipe = wipe;
    for (const name of ["a", "b"]) if (tileOf.has(given.get(name))) found[name] = given.get(name);
    if (found.b === found.a) found.b = "";
    if (!found.a) [found.a, found.b] = [found.b, ""];
    return found;
  }

  function keep() {
    const normal = start();
    const out = new URLSearchParams();
    for (const name of ["view", "layout", "only", "sort", "across", "order", "size", "a", "b", "mode", "wipe", "theme"]) {
      if (state[name] !== normal[name]) out.set(name, state[name]);
    }
    if (["rows", "cols", "pages"].some((name) => state[name].join() !== normal[name].join())) {
      for (const name of ["rows", "cols", "pages"]) out.set(name, state[name].join());
    }
    for (const [id, at] of Object.entries(state.at)) if (at) out.set(`at.${id}`, at);
    for (const [id, values] of Object.entries(state.hide)) {
      if (values.size) out.set(`hide.${id}`, [...values].sort((x, y) => x - y).join());
    }
    clearTimeout(later);
    const hash = out.toString().replaceAll("%2C", ",").replaceAll("%40", "@");
    keptMs = performance.now();
    try {
      history.replaceState(null, "", hash ? `#${hash}` : location.href.split("#")[0]);
    } catch {
      // The browser has had enough of them for a while; the view is as chosen all the same.
    }
  }

  // While something is dragged the address follows: browsers allow some 100 changes of it in half a minute.
  const KEEP_MS = 400;
  let keptMs = -KEEP_MS;
  let later = 0;
  function slide(changes, ...draws) {
    Object.assign(state, changes);
    for (const draw of draws) draw();
    clearTimeout(later);
    later = setTimeout(keep, Math.max(0, keptMs + KEEP_MS - performance.now()));
  }

  // --- selection and order of tiles ----------------------------------------------------------------

  function visible(tile) {
    if (state.only && (tile.diverged >= 0) !== (state.only === "diverged")) return false;
    return dims.every((dim) => {
      const value = dim.at[tile.index];
      if (state.hide[dim.id]?.has(value)) return false;
      return state.layout === "wall" || !state.pages.includes(dim.id) || value === page(dim);
    });
  }

  // The value of a dimension that is shown as a page: never a hidden one as long as others are left.
  function page(dim) {
    const hidden = state.hide[dim.id];
    const at = state.at[dim.id] ?? 0;
    if (!hidden?.has(at)) return at;
    const left = dim.values.findIndex((_, value) => !hidden.has(value));
    return left < 0 ? at : left;
  }

  const mean = (numbers) => {
    const there = numbers.filter((number) => number !== null);
    return there.length ? there.reduce((sum, number) => sum + number, 0) / there.length : null;
  };

  function compare(x, y) {
    if (x === null || y === null) return Number(x === null) - Number(y === null);
    if (typeof x === "number" && typeof y === "number") return x - y;
    return collator.compare(String(x), String(y));
  }

  // Sort `groups` of tiles by a loss or by the values of an axis; "" keeps the order of the grid.
  function sorted(groups, order) {
    const key = order.replace(/^-/, "");
    if (!key) return groups;
    const dim = dimOf.get(key);
    const worth = (group) => {
      if (!dim) return mean(group.tiles.map((tile) => run.tiles[key][tile.index]));
      const values = new Set(group.tiles.map((tile) => dim.at[tile.index]));
      if (values.size > 1) return null;
      const value = dim.values[[...values][0]];
      return value.numbers[0] ?? value.text.join(" ");
    };
    const sign = order.startsWith("-") ? -1 : 1;
    const rated = groups.map((group) => [worth(group), group]);
    rated.sort(([x], [y]) => (x === null || y === null ? compare(x, y) : sign * compare(x, y)));
    return rated.map(([, group]) => group);
  }

  // The rows or columns that the tiles in `found` make: groups by the values of `axes`, slowest first.
  function lines(found, axes, order) {
    const by = axes.map((id) => dimOf.get(id));
    const groups = new Map();
    for (const tile of found) {
      const values = by.map((dim) => dim.at[tile.index]);
      const key = values.join();
      if (!groups.has(key)) groups.set(key, { key, values, tiles: [] });
      groups.get(key).tiles.push(tile);
    }
    const inOrder = [...groups.values()].sort((x, y) => {
      for (let i = 0; i < by.length; i++) if (x.values[i] !== y.values[i]) return x.values[i] - y.values[i];
      return 0;
    });
    return sorted(inOrder, order);
  }

  // --- the sheet -----------------------------------------------------------------------------------

  const sheet = $("sheet");
  let longest = 0; // characters of the longest text directly above a column
  let places = []; // buttons by row and column, for the arrow keys

  function headOf(dim, value, pictures = true) {
    const about = dim.values[value];
    const inner = el("div", { title: about.given.join(", ") });
    for (const picture of pictures ? about.pictures : []) inner.append(el("img", { src: heads[picture], alt: "" }));
    inner.append(about.text.join(", "));
    return inner;
  }

  // For every line the number of neighbours, from it on, that have the same values up to `level`, or 0 if the
  // one before has them too. HTML allows no more than 1000 columns to a cell.
  function spans(groups, level) {
    const found = new Array(groups.length).fill(0);
    let first = 0;
    groups.forEach(({ values }, i) => {
      const same = i > 0 && i - first < 1000 && values.slice(0, level + 1).every((value, j) => value === groups[first].values[j]);
      if (!same) first = i;
      found[first]++;
    });
    return found;
  }

  // Whether the slowest of several axes takes its next value at a line, which then has a wider gap before it.
  const edges = (groups) => groups.map(({ values }, i) => i > 0 && values.length > 1 && values[0] !== groups[i - 1].values[0]);

  // The position at which the row heads of a level stay when the sheet is scrolled.
  const offset = (level) => (level ? `calc(${level} * var(--head))` : "0");

  function drawTable(found) {
    const rows = lines(found, state.rows, state.sort);
    const columns = lines(found, state.cols, state.across);
    const table = el("table");
    table.setAttribute("aria-label", "Pictures by row and column");
    const widths = el("colgroup");
    state.rows.forEach(() => widths.append(el("col", { className: "head" })));
    const [rowEdges, columnEdges] = [edges(rows), edges(columns)];
    columnEdges.forEach((edge) => widths.append(el("col", { className: edge ? "cell edge" : "cell" })));
    table.append(widths);
    const head = el("thead");
    state.cols.forEach((id, level) => {
      const dim = dimOf.get(id);
      const line = el("tr");
      if (level < state.cols.length - 1 && state.rows.length) {
        line.append(el("th", { className: "corner", colSpan: state.rows.length }, el("span", {}), el("span", {}, dim.label)));
      } else {
        state.rows.forEach((row, place) => {
          const text = place === state.rows.length - 1 ? dim.label : "";
          const th = el("th", { className: "corner" }, el("span", {}, dimOf.get(row).label), el("span", {}, text));
          th.style.left = offset(place);
          line.append(th);
        });
      }
      spans(columns, level).forEach((wide, j) => {
        if (!wide) return;
        const th = el("th", { scope: "colgroup", colSpan: wide }, headOf(dim, columns[j].values[level]));
        if (wide > 1) th.classList.add("span");
        if (!dim.named) th.classList.add("named");
        if (columnEdges[j]) th.classList.add("edge");
        line.append(th);
      });
      head.append(line);
    });
    if (state.cols.length) table.append(head);
    const body = el("tbody");
    const lowest = dimOf.get(state.cols.at(-1));
    longest = lowest?.named ? Math.max(0, ...lowest.values.map((about) => about.text.join(", ").length)) : 0;
    const by = new Map(columns.map((column, j) => [column.key, j]));
    const columnDims = state.cols.map((id) => dimOf.get(id));
    const rowSpans = state.rows.map((_, level) => spans(rows, level));
    places = rows.map((row, i) => {
      const line = el("tr", { className: rowEdges[i] ? "edge" : "" });
      state.rows.forEach((id, level) => {
        const tall = rowSpans[level][i];
        if (!tall) return;
        const dim = dimOf.get(id);
        const th = el("th", { scope: "rowgroup", rowSpan: tall }, headOf(dim, row.values[level]));
        th.style.left = offset(level);
        th.style.setProperty("--span", tall);
        line.append(th);
      });
      const filled = new Array(columns.length).fill(null);
      for (const tile of row.tiles) filled[by.get(columnDims.map((dim) => dim.at[tile.index]).join())] = tile.button;
      filled.forEach((button, j) => {
        const td = el("td", { className: columnEdges[j] ? "edge" : "" });
        if (button) td.append(button);
        line.append(td);
      });
      body.append(line);
      return filled;
    });
    table.append(body);
    sheet.replaceChildren(table);
    const tall = head.offsetHeight;
    table.style.setProperty("--top", `${tall}px`);
    for (const inner of head.querySelectorAll(".span > div")) inner.style.left = offset(state.rows.length);
  }

  function drawWall(found) {
    const wall = el("div", { className: "wall" });
    const shown = sorted(found.map((tile) => ({ tiles: [tile] })), state.sort).map((group) => group.tiles[0].button);
    wall.append(...shown);
    sheet.replaceChildren(wall);
    places = [shown];
  }

  // A size of pictures that uses the room of the window, at most about twice the pictures' own size.
  function fitting(columns) {
    const room = sheet.clientWidth - 44 - state.rows.length * 108;
    const wide = Math.max(1, boxWidth / Math.max(boxWidth, boxHeight));
    const size = state.layout === "table" ? room / Math.max(1, columns) / wide - 6 : tiles.length > 400 ? 96 : 176;
    return Math.round(Math.min(256, Math.max(2 * natural, 96), Math.max(tiles.length > 400 ? 40 : 72, size)));
  }

  function resize() {
    const size = state.size || fitting(places[0]?.length ?? 1);
    const scale = size / Math.max(boxWidth, boxHeight);
    const width = Math.max(8, Math.round(boxWidth * scale));
    sheet.style.setProperty("--size", `${width}px`);
    sheet.style.setProperty("--tall", `${Math.max(8, Math.round(boxHeight * scale))}px`);
    sheet.classList.toggle("tight", width < 64);
    sheet.classList.toggle("turned", 7 * longest > width);
    sheet.querySelector(".wall")?.classList.toggle("small", width < 120);
    const gap = width < 64 ? 2 : 4;
    const head = matchMedia("(max-width: 900px)").matches || size < 64 ? 84 : 108;
    sheet.style.setProperty("--head", `${head}px`);
    for (const col of all(sheet, "col.head")) col.style.width = `${head}px`;
    for (const col of all(sheet, "col.cell")) {
      col.style.width = `${width + gap + (col.classList.contains("edge") ? EDGE_PX : 0)}px`;
    }
    const table = sheet.querySelector("table");
    const thead = table?.querySelector("thead");
    if (thead) table.style.setProperty("--top", `${thead.offsetHeight}px`);
    const slider = /** @type {HTMLInputElement} */ ($("zoom"));
    if (slider) slider.value = String(size);
  }

  function drawSheet() {
    sheet.classList.remove("tight", "turned");
    const found = tiles.filter(visible);
    if (!found.length) {
      sheet.replaceChildren(el("p", { className: "empty" }, "No pictures match; show more values under “Arrange and filter”."));
      places = [];
    } else if (state.layout === "wall") drawWall(found);
    else drawTable(found);
    resize();
    mark();
    const first = places.flat().find(Boolean);
    if (first) first.tabIndex = 0;
    const [some, all] = [found.length, tiles.length].map((count) => count.toLocaleString("en"));
    $("count").textContent = (some === all ? all : `${some} of ${all}`) + (all === "1" ? " picture" : " pictures");
  }

  let marked = [];
  function mark() {
    for (const tile of marked) tile.button.classList.remove("a", "b");
    const chosen = { a: tileOf.get(state.a), b: tileOf.get(state.b) };
    const touched = new Set([...marked, ...Object.values(chosen).filter(Boolean)]);
    for (const tile of touched) {
      const name = tile === chosen.a ? "a" : tile === chosen.b ? "b" : "";
      if (name) tile.button.classList.add(name);
      tile.button.setAttribute("aria-pressed", String(Boolean(name)));
      label(tile, name);
    }
    marked = Object.values(chosen).filter(Boolean);
  }

  function label(tile, name) {
    const bad = tile.diverged >= 0;
    tile.button.classList.toggle("bad", bad);
    if (name) tile.button.dataset.mark = name.toUpperCase();
    else if (bad) tile.button.dataset.mark = "diverged";
    else delete tile.button.dataset.mark;
  }
  for (const tile of tiles) {
    if (tile.diverged >= 0) {
      label(tile, "");
      tile.image.alt += `, diverged at step ${tile.diverged}`;
    }
  }

  // --- controls ------------------------------------------------------------------------------------

  function set(changes, ...draws) {
    Object.assign(state, changes);
    for (const draw of draws) draw();
    keep();
  }

  function choices(label, options, value, pick) {
    const group = el("span", { className: "choice", role: "group", "aria-label": label });
    for (const [key, text] of options) {
      const button = el("button", { type: "button", "aria-pressed": String(key === value) }, text);
      button.addEventListener("click", () => pick(key));
      group.append(button);
    }
    return group;
  }

  function select(options, value, pick, label) {
    const made = el("select", { "aria-label": label });
    for (const [key, text] of options) made.append(el("option", { value: key, selected: key === value }, text));
    made.addEventListener("change", () => pick(made.value));
    return made;
  }

  function sorting(name, label, axes) {
    const plain = state[name].replace(/^-/, "");
    const options = [["", "as in the grid"], ...axes.map((id) => [id, dimOf.get(id).label]), ...Object.entries(LOSSES)];
    const down = state[name].startsWith("-");
    const pick = (key, descending) => set({ [name]: key && descending ? `-${key}` : key }, drawBar, drawSheet);
    const turn = el("button", { type: "button", disabled: !plain, title: down ? "largest first" : "smallest first" }, down ? "↓" : "↑");
    turn.setAttribute("aria-label", `${label}: ${down ? "largest first" : "smallest first"}`);
    turn.addEventListener("click", () => pick(plain, !down));
    return el("label", {}, label, select(options, plain, (key) => pick(key, down), label), turn);
  }

  function move(id, to) {
    const changes = {};
    for (const name of ["rows", "cols", "pages"]) changes[name] = state[name].filter((other) => other !== id);
    changes[to].push(id);
    set(changes, drawBar, drawSheet);
  }

  function filter(dim) {
    const hidden = state.hide[dim.id] ?? new Set();
    const left = dim.values.length - hidden.size;
    const text = hidden.size ? `${left} of ${dim.values.length}` : `all ${dim.values.length}`;
    const details = el("details", { open: opened.has(dim.id) }, el("summary", {}, text));
    details.addEventListener("toggle", () => opened[details.open ? "add" : "delete"](dim.id));
    const apply = (values) => set({ hide: { ...state.hide, [dim.id]: values } }, drawBar, drawSheet);
    const list = el("div", { className: "values" });
    dim.values.forEach((about, value) => {
      const box = el("input", { type: "checkbox", checked: !hidden.has(value) });
      box.addEventListener("change", () => {
        const next = new Set(hidden);
        next[box.checked ? "delete" : "add"](value);
        apply(next);
      });
      list.append(el("label", {}, box, about.text.join(", ")));
    });
    const all = el("button", { type: "button", className: "quiet" }, "all");
    all.addEventListener("click", () => apply(new Set()));
    const none = el("button", { type: "button", className: "quiet" }, "none");
    none.addEventListener("click", () => apply(new Set(dim.values.keys())));
    details.append(list, all, none);
    return details;
  }

  const opened = new Set(); // the dimensions whose lists of values are unfolded

  function arrangement() {
    const table = el("table");
    const wells = [["rows", "rows"], ["cols", "columns"], ["pages", "pages"]];
    const titles = state.layout === "table" ? wells.map(([, text]) => text) : [];
    table.append(el("thead", {}, el("tr", {}, ...["", ...titles, "values"].map((text) => el("th", {}, text)))));
    const body = el("tbody");
    for (const dim of dims) {
      const line = el("tr", {}, el("th", { scope: "row" }, dim.label));
      for (const [well, text] of titles.length ? wells : []) {
        const radio = el("input", { type: "radio", name: `well-${dim.index}`, checked: state[well].includes(dim.id) });
        radio.setAttribute("aria-label", `${dim.label} as ${text}`);
        radio.addEventListener("change", () => move(dim.id, well));
        line.append(el("td", { className: "pick" }, radio));
      }
      line.append(el("td", {}, filter(dim)));
      body.append(line);
    }
    table.append(body);
    const reset = el("button", { type: "button" }, "Reset");
    reset.addEventListener("click", () => {
      const { rows, cols, pages, layout } = start();
      set({ rows, cols, pages, layout, at: {}, hide: {}, only: "", sort: "", across: "", size: 0 }, drawBar, drawSheet);
    });
    const foot = el("footer", {});
    if (anyDiverged) {
      const options = [["", "every cell"], ["done", "without diverged cells"], ["diverged", "diverged cells only"]];
      foot.append(select(options, state.only, (only) => set({ only }, drawBar, drawSheet), "Status"));
    }
    foot.append(reset);
    return el("div", { className: "card" }, table, foot);
  }

  function pager(dim) {
    const there = dim.values.map((about, value) => [String(value), about.text.join(", ")]);
    const left = there.filter(([value]) => !state.hide[dim.id]?.has(Number(value)));
    const now = left.findIndex(([value]) => Number(value) === page(dim));
    const go = (value) => set({ at: { ...state.at, [dim.id]: Number(value) } }, drawBar, drawSheet);
    const turn = (by, text, label) => {
      const button = el("button", { type: "button", disabled: !left[now + by] }, text);
      button.setAttribute("aria-label", `${label} ${dim.label}`);
      button.addEventListener("click", () => go(left[now + by][0]));
      return button;
    };
    const pick = select(left, String(page(dim)), go, dim.label);
    return el("span", { className: "page" }, dim.label, turn(-1, "‹", "previous"), pick, turn(1, "›", "next"));
  }

  const bar = $("bar");
  const arranging = () => /** @type {HTMLDetailsElement} */ (bar.querySelector(".arrange"));
  function drawBar() {
    const used = () => all(bar, "button, select, input, summary");
    const focus = used().indexOf(/** @type {HTMLElement} */ (document.activeElement));
    const label = document.activeElement?.getAttribute("aria-label");
    const wasOpen = arranging()?.open ?? false;
    const parts = [];
    if (dims.length) {
      const layouts = [["table", "Table"], ["wall", "Wall"]];
      parts.push(choices("Layout", layouts, state.layout, (layout) => set({ layout }, drawBar, drawSheet)));
      const arrange = el("details", { className: "arrange", open: wasOpen }, el("summary", { className: "button" }, "Arrange and filter"));
      arrange.append(arrangement());
      parts.push(arrange);
      if (state.layout === "table") {
        for (const id of state.pages) parts.push(pager(dimOf.get(id)));
        parts.push(sorting("sort", "Rows", state.rows), sorting("across", "Columns", state.cols));
      } else parts.push(sorting("sort", "Sort", dims.map((dim) => dim.id)));
    }
    const zoom = el("input", { type: "range", id: "zoom", min: 24, max: 512, step: 4 });
    zoom.setAttribute("aria-label", "Size of the pictures");
    zoom.addEventListener("input", () => slide({ size: Number(zoom.value) }, resize));
    zoom.addEventListener("change", keep);
    parts.push(el("label", {}, "Zoom", zoom), el("span", { className: "count", id: "count", role: "status" }));
    bar.replaceChildren(...parts);
    if (focus >= 0) (used().find((item) => label && item.getAttribute("aria-label") === label) ?? used()[focus])?.focus();
  }

  // This listens before the clicked element does, since that element may draw the bar anew.
  document.addEventListener("click", (event) => {
    const details = arranging();
    if (details?.open && !details.contains(aim(event))) details.open = false;
  }, { capture: true });

  function choose(key) {
    let { a, b } = state;
    if (key === a) [a, b] = [b, ""];
    else if (key === b) b = "";
    else if (!a) a = key;
    else b = key;
    set({ a, b }, mark, drawCompare);
    tileOf.get(key).button.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  sheet.addEventListener("click", (event) => {
    const button = /** @type {HTMLElement} */ (aim(event).closest(".tile"));
    if (button) choose(tiles[button.dataset.index].key);
  });

  sheet.addEventListener("pointerover", (event) => {
    const button = /** @type {HTMLElement} */ (aim(event).closest(".tile"));
    if (!button || button.title) return;
    const tile = tiles[button.dataset.index];
    const loss = run.tiles.loss_total[tile.index];
    button.title = [tile.image.alt, loss === null ? "" : `total loss ${number(loss)}`].filter(Boolean).join("\n");
  });

  // Only one tile can be reached with Tab; the arrow keys move on from it.
  sheet.addEventListener("focusin", (event) => {
    if (!aim(event).matches(".tile")) return;
    for (const other of all(sheet, '.tile[tabindex="0"]')) other.tabIndex = -1;
    aim(event).tabIndex = 0;
  });

  function neighbour(button, down, right) {
    if (state.layout === "wall") {
      const flow = places[0];
      const here = button.getBoundingClientRect();
      const perRow = Math.max(1, flow.findIndex((other) => other.offsetTop > flow[0].offsetTop));
      const index = flow.indexOf(button) + right + down * (here.width ? perRow : 1);
      return flow[index];
    }
    const i = places.findIndex((row) => row.includes(button));
    let [y, x] = [i + down, places[i].indexOf(button) + right];
    while (places[y] && x >= 0 && x < places[y].length && !places[y][x]) [y, x] = [y + down, x + right];
    return places[y]?.[x];
  }

  sheet.addEventListener("keydown", (event) => {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (!(event.key in steps) || !aim(event).matches(".tile")) return;
    event.preventDefault();
    neighbour(aim(event), ...steps[event.key])?.focus();
  });

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    const details = arranging();
    if (details?.open) {
      details.open = false;
      details.querySelector("summary").focus();
    } else if (state.a) set({ a: "", b: "" }, mark, drawCompare);
  });

  // --- comparing -----------------------------------------------------------------------------------

  const panel = $("compare");
  function number(value) {
    if (value === null) return "–";
    const plain = value === 0 || (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5);
    return plain ? String(Number(value.toPrecision(4))) : value.toExponential(3).replace("e+", "e");
  }

  // The full picture if the page lies in its run, otherwise the small one.
  function full(tile) {
    const image = el("img", { alt: tile.image.alt, src: tile.image.src });
    const large = new Image();
    large.onload = () => (image.src = large.src);
    large.src = tile.file;
    return image;
  }

  function badge(name) {
    return el("span", { className: `badge is-${name}` }, name.toUpperCase());
  }

  function caption(tile, name) {
    return el("figcaption", {}, badge(name), `cell ${tile.cell}`);
  }

  function beside(pair) {
    const box = el("div", { className: pair.length > 1 ? "pair" : "pair one" });
    for (const [tile, name] of pair) box.append(el("figure", {}, full(tile), caption(tile, name)));
    return box;
  }

  /** @param {any[][]} pair */
  function over(pair) {
    const [[a], [b]] = pair;
    const stack = el("div", { className: "stack" });
    const [width, height] = run.cells.size[cellIndex.get(a.cell)].split(" × ").map(Number);
    stack.style.aspectRatio = `${width} / ${height}`;
    const upper = full(b);
    upper.className = "over";
    stack.append(full(a), upper, badge("a"), badge("b"));
    const slider = el("input", { type: "range", min: 0, max: 100, step: 0.5, value: state.wipe });
    slider.setAttribute("aria-label", "Where A ends and B begins");
    const show = (at) => {
      stack.style.setProperty("--at", `${at}%`);
      slider.value = at;
    };
    const drag = (event) => {
      const box = stack.getBoundingClientRect();
      const at = Math.round(Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * 200) / 2;
      show(at);
      slide({ wipe: at });
    };
    stack.addEventListener("pointerdown", (event) => {
      stack.setPointerCapture(event.pointerId);
      drag(event);
    });
    stack.addEventListener("pointermove", (event) => event.buttons && drag(event));
    stack.addEventListener("pointerup", keep);
    slider.addEventListener("input", () => {
      show(slider.value);
      slide({ wipe: Number(slider.value) });
    });
    slider.addEventListener("change", keep);
    show(state.wipe);
    return el("div", { className: "wipe" }, el("figure", {}, stack), slider);
  }

  // The settings that a tile was made with; `outcome` has the results.
  function settings(tile) {
    const found = [];
    for (const dim of dims) {
      const value = dim.values[dim.at[tile.index]];
      dim.axes.forEach((axis, i) => found.push([axis, value.given[i]]));
    }
    return found;
  }

  function outcome(tile) {
    const found = [];
    for (const [key, text] of Object.entries(LOSSES)) found.push([text, number(run.tiles[key][tile.index])]);
    const i = cellIndex.get(tile.cell);
    for (const [text, values] of Object.entries(run.cells.further)) {
      if (tile.snapshot === last) found.push([text, number(values[i])]);
    }
    found.push(["lowest total", `${number(run.cells.best[i])}${run.cells.best_step[i] === "" ? "" : ` at step ${run.cells.best_step[i]}`}`]);
    found.push(["evaluations", number(run.cells.evaluations[i])]);
    if (shapes.size > 1) found.push(["size", run.cells.size[i]]);
    if (anyDiverged) found.push(["status", tile.diverged < 0 ? "done" : `diverged at step ${tile.diverged}`]);
    return found;
  }

  function table(pair) {
    const made = el("table", { className: "differ" });
    made.append(el("thead", {}, el("tr", {}, el("th"), ...pair.map(([tile, name]) => el("th", { scope: "col" }, badge(name), `cell ${tile.cell}`)))));
    for (const tell of [settings, outcome]) {
      const columns = pair.map(([tile]) => new Map(tell(tile)));
      const body = el("tbody");
      for (const name of new Set(columns.flatMap((column) => [...column.keys()]))) {
        const values = columns.map((column) => column.get(name) ?? "–");
        const line = el("tr", {}, el("th", { scope: "row" }, name), ...values.map((value) => el("td", {}, value)));
        if (tell === settings && new Set(values).size > 1) line.className = "other";
        body.append(line);
      }
      made.append(body);
    }
    return made;
  }

  // --- loss curves ---------------------------------------------------------------------------------

  let codes; // of all curves, decoded when first asked for: 1 + 1000 (log10 + 12), 0 for none
  const offsets = [];
  function curve(cell, which) {
    if (!codes) {
      const bytes = Uint8Array.from(atob(run.curves.codes), (c) => c.charCodeAt(0));
      codes = new Uint16Array(bytes.length / 2);
      const view = new DataView(bytes.buffer);
      for (let i = 0; i < codes.length; i++) codes[i] = view.getUint16(2 * i, true);
      let offset = 0;
      for (const of of run.curves.of) {
        offsets.push(offset);
        offset += Object.keys(LOSSES).length * run.curves.steps[of].length;
      }
    }
    const index = cellIndex.get(cell);
    const steps = run.curves.steps[run.curves.of[index]];
    const from = offsets[index] + which * steps.length;
    return steps.map((step, i) => [step, codes[from + i]]).filter(([, code]) => code).map(([step, code]) => [step, (code - 1) / 1000 - 12]);
  }

  function svg(tag, attributes, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  const power = (exponent) => `1e${exponent}`;

  function plot(pair, which, title) {
    const [left, right, top, bottom] = [36, 216, 8, 112];
    const drawn = pair.map(([tile, name]) => ({ name, points: curve(tile.cell, which), shown: run.snapshots[tile.snapshot] }));
    const all = drawn.flatMap(({ points }) => points);
    const figure = el("figure", {}, el("figcaption", {}, title));
    if (!all.length) return el("figure", {}, el("figcaption", {}, `${title}: no values above 0`));
    const ends = Math.max(1, ...all.map(([step]) => step));
    let low = Math.min(...all.map(([, y]) => y));
    let high = Math.max(...all.map(([, y]) => y));
    if (high - low < 0.3) [low, high] = [(low + high) / 2 - 0.15, (low + high) / 2 + 0.15];
    const x = (step) => left + ((right - left) * step) / ends;
    const y = (value) => bottom - ((bottom - top) * (value - low)) / (high - low);
    const picture = svg("svg", { viewBox: "0 0 220 130", role: "img", "aria-label": `${title} of ${pair.map(([tile]) => `cell ${tile.cell}`).join(" and ")}` });
    const every = Math.max(1, Math.ceil((high - low) / 5));
    const ticks = [];
    for (let t = Math.ceil(low / every) * every; t <= high; t += every) ticks.push([t, power(t)]);
    if (ticks.length < 2) {
      ticks.length = 0;
      for (const t of [low, high]) ticks.push([t, Number((10 ** t).toPrecision(2)).toExponential().replace("e+", "e")]);
    }
    for (const [t, text] of ticks) {
      picture.append(svg("line", { class: "grid", x1: left, x2: right, y1: y(t), y2: y(t) }));
      picture.append(svg("text", { x: left - 5, y: y(t) + 3, "text-anchor": "end" }, text));
    }
    picture.append(svg("text", { x: left, y: 127 }, "0"), svg("text", { x: right, y: 127, "text-anchor": "end" }, `${ends} steps`));
    for (const { name, points, shown } of drawn) {
      if (!points.length) continue;
      const line = points.map(([step, value], i) => `${i ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("");
      picture.append(svg("path", { class: `is-${name}`, d: line }));
      const end = points.findLast(([step]) => step <= shown) ?? points.at(-1);
      picture.append(svg("circle", { class: `is-${name}`, cx: x(end[0]), cy: y(end[1]), r: 2.8 }));
    }
    figure.append(picture);
    return figure;
  }

  // What has the focus keeps it when the panel is drawn anew, and gives it to a picture when it is closed.
  function drawCompare() {
    const inside = panel.contains(document.activeElement);
    const label = inside && (document.activeElement.getAttribute("aria-label") ?? document.activeElement.textContent);
    const before = panel.dataset.shown;
    drawPanel();
    panel.dataset.shown = state.a;
    if (!inside) return;
    const same = [...panel.querySelectorAll("button, input")].find((item) => (item.getAttribute("aria-label") ?? item.textContent) === label);
    (same ?? tileOf.get(before)?.button)?.focus();
  }

  function drawPanel() {
    const pair = [["a", state.a], ["b", state.b]].filter(([, key]) => key).map(([name, key]) => [tileOf.get(key), name]);
    panel.hidden = !pair.length;
    if (!pair.length) return panel.replaceChildren();
    const two = pair.length > 1;
    const head = el("header", {}, el("h2", {}, two ? "Compare" : `Cell ${pair[0][0].cell}`));
    if (two) {
      const modes = [["side", "Side by side"], ["wipe", "Wipe"]];
      head.append(choices("Arrangement of the two pictures", modes, state.mode, (mode) => set({ mode }, drawCompare)));
    } else head.append(el("span", { className: "shared", style: "margin:0" }, "choose another picture to compare"));
    const end = el("span", { className: "end" });
    if (two) {
      const swap = el("button", { type: "button" }, "Swap");
      swap.addEventListener("click", () => set({ a: state.b, b: state.a }, mark, drawCompare));
      end.append(swap);
    }
    const close = el("button", { type: "button", "aria-label": "Close" }, "×");
    close.addEventListener("click", () => set({ a: "", b: "" }, mark, drawCompare));
    end.append(close);
    head.append(end);
    const plots = el("div", { className: "plots" }, ...Object.values(LOSSES).map((title, which) => plot(pair, which, title)));
    panel.replaceChildren(head, two && state.mode === "wipe" ? over(pair) : beside(pair), table(pair), plots);
  }

  // --- the table of cells --------------------------------------------------------------------------

  // The columns of the table of cells: their keys, titles, and of a tile the value to sort by and its text.
  function columns() {
    const made = [{ key: "cell", title: "cell", worth: (tile) => tile.cell, text: (tile) => String(tile.cell) }];
    for (const dim of dims.filter((other) => other.id !== "steps")) {
      dim.axes.forEach((title, i) => {
        const about = (tile) => dim.values[dim.at[tile.index]];
        const worth = (tile) => about(tile).numbers[i] ?? about(tile).text[i];
        made.push({ key: i ? `${dim.id}.${i}` : dim.id, title, worth, text: (tile) => about(tile).text[i] });
      });
    }
    for (const [key, title] of Object.entries(LOSSES)) {
      const worth = (tile) => run.tiles[key][tile.index];
      made.push({ key, title, worth, text: (tile) => number(worth(tile)) });
    }
    for (const [title, values] of Object.entries(run.cells.further)) {
      const worth = (tile) => values[cellIndex.get(tile.cell)];
      made.push({ key: title, title, worth, text: (tile) => number(worth(tile)) });
    }
    const status = (tile) => (tile.diverged < 0 ? "done" : `diverged at step ${tile.diverged}`);
    made.push({ key: "status", title: "status", worth: status, text: status });
    return made;
  }

  // Show by the arrow of a column's head, and to those who cannot see it, how a table is sorted.
  function markOrder(heads, at, down) {
    heads.forEach((head, i) => {
      const order = i !== at ? "none" : down ? "descending" : "ascending";
      head.setAttribute("aria-sort", order);
      head.querySelector(".order").textContent = { none: "", ascending: "\u2009↑", descending: "\u2009↓" }[order];
    });
  }

  // Make the heads of a table's columns buttons that call `pick` with the number of the column.
  function sortable(heads, pick) {
    heads.forEach((head, i) => {
      const button = el("button", { type: "button", className: "sort" }, ...head.childNodes, el("span", { className: "order", "aria-hidden": "true" }));
      button.addEventListener("click", () => pick(i));
      head.replaceChildren(button);
    });
  }

  function drawTableOfCells() {
    const box = $("cells");
    if (state.view !== "table") return;
    const all = columns();
    if (!box.firstChild) {
      const names = all.map(({ title }) => el("th", { scope: "col" }, title));
      box.append(el("table", { className: "data" }, el("thead", {}, el("tr", {}, ...names)), el("tbody")));
      sortable(names, (i) => {
        const { key } = all[i];
        set({ order: state.order === key ? `-${key}` : state.order === `-${key}` ? "" : key }, drawTableOfCells);
      });
    }
    const key = state.order.replace(/^-/, "");
    const at = all.findIndex((column) => column.key === key);
    const down = state.order.startsWith("-");
    const shown = tiles.filter((tile) => tile.snapshot === last);
    if (at >= 0) {
      const sign = down ? -1 : 1;
      const rated = shown.map((tile) => [all[at].worth(tile), tile]);
      rated.sort(([x], [y]) => (x === null || y === null ? compare(x, y) : sign * compare(x, y)));
      rated.forEach(([, tile], i) => (shown[i] = tile));
    }
    const rows = shown.map((tile) => el("tr", {}, ...all.map((column) => el("td", {}, column.text(tile)))));
    box.querySelector("tbody").replaceChildren(...rows);
    markOrder([...box.querySelectorAll("th")], at, down);
  }

  // The other tables are sorted by what they show, which is numbers or texts with numbers.
  for (const made of document.querySelectorAll(".scroll table.data")) {
    const heads = [...made.querySelectorAll("thead th")];
    const body = made.querySelector("tbody");
    const original = [...body.rows];
    let [at, down] = [-1, false];
    // The number that a text begins with, such as that of "9.25 % (8 to 10)"; a text without one counts as the largest.
    const worth = (row) => {
      const text = row.cells[at].textContent.trim();
      if (text === "" || text === "–") return null;
      const first = Number.parseFloat(text.replaceAll(",", ""));
      return [Number.isNaN(first) ? Infinity : first, text];
    };
    const order = ([x, a], [y, b]) => (x === y ? collator.compare(a, b) : x - y);
    sortable(heads, (i) => {
      if (at === i && down) at = -1;
      else [at, down] = [i, at === i];
      const rated = original.map((row) => [at < 0 ? null : worth(row), row]);
      rated.sort(([x], [y]) => (x === null || y === null ? compare(x, y) : (down ? -1 : 1) * order(x, y)));
      body.replaceChildren(...(at < 0 ? original : rated.map(([, row]) => row)));
      markOrder(heads, at, down);
    });
    markOrder(heads, at, down);
  }

  // --- sections and themes -------------------------------------------------------------------------

  function drawView() {
    for (const link of all(document, "nav a")) {
      const here = link.dataset.view === state.view;
      $(link.dataset.view).hidden = !here;
      if (here) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }

  function drawTheme() {
    root.style.colorScheme = state.theme || "light dark";
    const next = { "": "Auto", light: "Light", dark: "Dark" }[state.theme];
    $("theme").textContent = `◐ ${next}`;
    $("theme").setAttribute("aria-label", `Colours: ${next}`);
  }

  for (const link of all(document, "nav a")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      set({ view: link.dataset.view }, drawView, drawTableOfCells, resize);
    });
  }
  $("theme").addEventListener("click", () => {
    set({ theme: { "": "dark", dark: "light", light: "" }[state.theme] }, drawTheme);
  });

  function drawAll() {
    clearTimeout(later);
    state = read();
    for (const draw of [drawTheme, drawView, drawBar, drawSheet, drawCompare, drawTableOfCells]) draw();
  }
  for (const item of [bar, sheet, $("theme")]) item.hidden = false;
  drawAll();
addEventListener("hashchange", drawAll);
  addEventListener("resize", () => state.size || resize());

  // Times in ms since the navigation began: until the page was laid out, and until all of it was painted.
  root.dataset.readyMs = String(Math.round(performance.now()));
  addEventListener("load", () => {
    requestAnimationFrame(() => requestAnimationFrame(() => {
      root.dataset.paintedMs = String(Math.round(performance.now()));
    }));
  });
})();
