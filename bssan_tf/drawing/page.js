"use strict";
// What the page shows of its data: see page.py. Each case is a caption beside the photo; `shown` is a word, a box or
// nothing of it, what the pointer or the keyboard is at, else what was clicked or tapped.

const data = JSON.parse(document.getElementById("data").textContent);
const CELL = 8; // pixels of a heat map's cell; the browser smooths what it scales
const PARTS = { score: "Total", w2r: "W2R: words look at the photo", o2w: "O2W: objects look at the words" };

function element(tag, classes, text, ...children) {
  const made = document.createElement(tag);
  if (classes) made.className = classes;
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}\u00a0%`;
const number = (value) => (value === null ? "\u2013" : value.toFixed(3).replace("-", "\u2212"));

// ---- heat maps, as figures.py makes them

function smoothing(cells) {
  // How much each cell counts in each pixel (size x cells): nearest up-sampling, then a Gaussian, mirrored at the edges.
  const size = CELL * cells, sigma = data.sigma * CELL, rows = [];
  const radius = Math.min(Math.round(3 * sigma), size - 1);
  for (let i = 0; i < size; i++) {
    const row = new Array(cells).fill(0);
    for (let k = -radius; k <= radius; k++) {
      let at = Math.abs(i + k);
      if (at > size - 1) at = 2 * size - 2 - at;
      row[Math.floor(at / CELL)] += Math.exp(-k * k / (2 * sigma * sigma));
    }
    const sum = row.reduce((a, b) => a + b);
    rows.push(row.map((weight) => weight / sum));
  }
  return rows;
}

function paint(canvas, alpha, [rows, columns]) {
  const down = smoothing(rows), across = smoothing(columns);
  const half = down.map((weights) => across[0].map((_, c) => weights.reduce((sum, w, r) => sum + w * alpha[r * columns + c], 0)));
  const map = half.flatMap((line) => across.map((weights) => weights.reduce((sum, w, c) => sum + w * line[c], 0)));
  const total = alpha.reduce((a, b) => a + b, 0) || 1;
  const top = Math.max(map.reduce((a, b) => Math.max(a, b), 0), data.full * total / (rows * columns));
  const context = canvas.getContext("2d"), picture = context.createImageData(CELL * columns, CELL * rows);
  map.forEach((value, i) => {
    const at = 6 * Math.min(255, Math.floor(256 * value / top));
    for (let k = 0; k < 3; k++) picture.data[4 * i + k] = parseInt(data.heat.substr(at + 2 * k, 2), 16);
    picture.data[4 * i + 3] = 255;
  });
  context.putImageData(picture, 0, 0);
}

// ---- bars of numbers that may be negative

function bar(value, low, high, classes = "") {
  const track = element("span", "track"), fill = element("span", `fill ${classes}`);
  const place = (x) => 100 * (x - low) / (high - low || 1);
  fill.style.left = `${place(Math.min(0, value))}%`;
  fill.style.width = `${Math.abs(place(value) - place(0))}%`;
  track.append(fill);
  if (low < 0) {
    const zero = element("span", "zero");
    zero.style.left = `${place(0)}%`;
    track.append(zero);
  }
  track.setAttribute("aria-hidden", "true");
  return track;
}

function range(values) {
  const known = values.filter((value) => value !== null);
  return [Math.min(0, ...known), Math.max(0, ...known)];
}

function scores(own) {
  const names = Object.keys(own).filter((name) => name === "score" || Object.keys(own).length > 2);
  const all = data.cases.flatMap((one) => Object.values(one.scores)), [low, high] = range(all);
  const list = element("ul", "scores");
  for (const name of names) {
    const line = element("li", name, "", element("span", "name", PARTS[name]), element("b", "", number(own[name])));
    if (all.length > 1) line.append(bar(own[name] ?? 0, low, high)); // a lone bar has nothing to be compared with
    list.append(line);
  }
  return list;
}

function eraseTest(words, point) {
  const falls = words.map((word) => word.erased.falls);
  const [low, high] = range(data.cases.flatMap((one) => one.words.flatMap((word) => word.erased.falls)));
  const places = Math.max(...words.map((word) => word.erased.places));
  const mean = (k) => falls.reduce((sum, own) => sum + (own[k] ?? 0), 0) / falls.length;
  const kinds = [["looked", "where the word looked"], ["elsewhere", `elsewhere, mean of ${places} random places`]];
  const table = element("table");
  const [left, top, right, bottom] = words[0].erased.square;
  const area = Math.round(100 * (right - left) * (bottom - top));
  const told = `By how much the score falls when a square of ${area} % of the photo is grey: `;
  const caption = element("caption", "", told);
  kinds.forEach(([kind, text], k) => caption.append(element("span", `key ${kind}`), k ? `${text}.` : `${text}; `));
  const row = (name, own) => {
    const numbers = kinds.map(([kind, text], k) => {
      const cell = element("span", "fall", "", bar(own[k] ?? 0, low, high, kind), element("span", "number", number(own[k])));
      cell.lastChild.prepend(element("span", "spoken", `${text}: `));
      return cell;
    });
    const head = element("th", "", name);
    head.scope = "row";
    return element("tr", "", "", head, element("td", "", "", ...numbers));
  };
  const body = element("tbody");
  words.forEach((word, i) => {
    body.append(row(word.word, word.erased.falls));
    point(body.lastChild, i);
  });
  table.append(caption, body, element("tfoot", "", "", row("mean", [mean(0), mean(1)])));
  return table;
}

// ---- a group of buttons is one stop of Tab; arrows move in it

function group(name, classes, buttons) {
  const made = element("div", classes, "", ...buttons);
  made.setAttribute("role", "group");
  made.setAttribute("aria-label", name);
  buttons.forEach((button, i) => { button.tabIndex = i ? -1 : 0; });
  made.addEventListener("keydown", (event) => {
    const at = buttons.indexOf(document.activeElement), last = buttons.length - 1;
    const next = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: last }[event.key];
    if (at < 0 || next === undefined) return;
    event.preventDefault();
    const goal = buttons[Math.max(0, Math.min(last, next))];
    buttons.forEach((button) => { button.tabIndex = button === goal ? 0 : -1; });
    goal.focus();
  });
  return made;
}

function wordButton({ word, known }) {
  const bars = element("span", "bars", "", element("span", "beta"), element("span", "share"));
  const text = element("span", "text", word), button = element("button", "word", "", bars, text);
  if (!known) {
    button.classList.add("unknown");
    text.append(element("span", "tag", "unknown"));
    button.title = "The run does not know this word. All unknown words are read as one.";
  }
  return button;
}

function objectButton({ label, confidence }) {
  const button = element("button", "object", "", element("span", "text", label), element("span", "share"));
  if (confidence !== null) button.title = `The detector's score: ${confidence.toFixed(2)}`;
  button.append(element("span", "bars", "", element("span", "beta")));
  return button;
}

// ---- a caption beside the photo

function caseOf(own, place) {
  const { words, grid, beta } = own, objects = beta ? data.objects : [];
  const image = element("img"), canvas = element("canvas"), square = element("div", "square"), photo = element("div", "photo");
  image.src = data.photo;
  image.alt = "The photo";
  if (grid) [canvas.height, canvas.width] = [CELL * grid[0], CELL * grid[1]];
  photo.style.setProperty("--ratio", data.size[0] / data.size[1]);
  photo.style.setProperty("--heat", data.opacity);
  photo.append(image, canvas, square);
  const said = element("figcaption");
  said.setAttribute("aria-live", "polite");
  const wordButtons = words.map(wordButton), objectButtons = objects.map(objectButton);
  const area = ({ box: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);
  const boxes = objects.map((object) => {
    const box = element("div", "box");
    placed(box, object.box);
    box.style.zIndex = 1 + objects.filter((other) => area(other) > area(object)).length; // small ones lie on top
    return box;
  });
  const name = element("div", "name");
  photo.append(...boxes, name);

  let held = null, shown = null;
  const same = (a, b) => a === b || (a && b && a.kind === b.kind && a.i === b.i);

  function light(button, share, top) {
    button.style.setProperty("--share", share === null ? 0 : Math.min(1, share / top));
    button.querySelector(".share").textContent = share === null ? "" : percent(share);
  }

  function show(item) {
    shown = item;
    const word = item?.kind === "word" ? item.i : null, object = item?.kind === "object" ? item.i : null;
    const looked = word === null ? null : objects.map(({ slot }) => beta[slot][word]);
    const read = object === null ? null : beta[objects[object].slot];
    // twice the even share fills a bar at the least, so that even attention looks even
    const top = 2 / words.length, most = Math.max(top, ...(looked ?? read ?? []));
    photo.classList.toggle("heated", word !== null && grid !== null);
    if (word !== null && grid) paint(canvas, words[word].alpha, grid);
    square.hidden = word === null || !words[word].erased;
    if (!square.hidden) placed(square, words[word].erased.square);
    wordButtons.forEach((button, i) => {
      button.classList.toggle("active", i === word);
      button.classList.toggle("lit", read !== null && read[i] > 1 / words.length);
      if (beta) light(button, read && read[i], most);
      button.setAttribute("aria-pressed", same(held, { kind: "word", i }));
    });
    wordButtons[0].parentElement?.style.setProperty("--even", 1 / words.length / most);
    wordButtons[0].parentElement?.classList.toggle("read", read !== null);
    objectButtons.forEach((button, p) => {
      button.classList.toggle("active", p === object);
      light(button, looked && looked[p], most);
      boxes[p].classList.toggle("active", p === object);
      boxes[p].style.setProperty("--strength", looked ? (looked[p] > 1 / words.length ? looked[p] / most : 0) : 0.45);
      button.setAttribute("aria-pressed", same(held, { kind: "object", i: p }));
    });
    name.hidden = object === null;
    if (object !== null) {
      const [x1, y1, x2] = objects[object].box, right = x1 > 0.6; // near the right edge the name ends with its box
      name.textContent = objects[object].label;
      Object.assign(name.style, { top: `${100 * y1}%`, left: right ? "" : `${100 * x1}%`, right: right ? `${100 - 100 * x2}%` : "" });
    }
    said.textContent = told(word, object, looked, read);
  }

  function told(word, object, looked, read) {
    const best = (shares) => [...shares.keys()].sort((a, b) => shares[b] - shares[a]).slice(0, 3);
    if (word !== null) {
      const known = words[word].known ? "" : " (unknown)", name = `\u201c${words[word].word}\u201d${known}`;
      const seen = looked.length ? best(looked).map((p) => `${objects[p].label} ${percent(looked[p])}`).join(", ") : "";
      const where = (grid ? `Warm: where ${name} looked. ` : `${name}. `) + (square.hidden ? "" : "Dashed: what the erase test greys. ");
      return where + (seen && `Attention of objects to it: ${seen}.`);
    }
    if (object !== null) {
      const seen = best(read).map((i) => `\u201c${words[i].word}\u201d ${percent(read[i])}`).join(", ");
      return `${objects[object].label} looked at ${seen}.`;
    }
    return "";
  }

  function point(target, item, keyboard = true) {
    target.addEventListener("pointerenter", (event) => { if (event.pointerType !== "touch") show(item); });
    target.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") show(held); });
    target.addEventListener("click", () => {
      held = same(held, item) ? null : item;
      show(held);
    });
    if (!keyboard) return;
    target.addEventListener("focus", () => { if (target.matches(":focus-visible")) show(item); });
    target.addEventListener("blur", () => show(held));
  }

  wordButtons.forEach((button, i) => point(button, { kind: "word", i }));
  objectButtons.forEach((button, i) => point(button, { kind: "object", i }));
  boxes.forEach((box, i) => point(box, { kind: "object", i }, false));

  const made = element("section", "case"), look = element("div", "look"), facts = element("div", "facts");
  made.setAttribute("aria-label", words.map(({ word }) => word).join(" "));
  made.addEventListener("keydown", (event) => { if (event.key === "Escape") show(held = null); });
  if (data.cases.length > 1) look.append(element("h2", "", `Sentence ${"AB"[place]}`));
  look.append(group("Words of the sentence", beta ? "words" : "words bare", wordButtons));
  look.append(element("figure", "", "", photo, said));
  if (grid) said.before(scale());
  facts.append(element("h3", "", "Score"), scores(own.scores));
  if (beta) facts.append(element("h3", "", "Objects"), group("Objects of the photo", "objects", objectButtons));
  if (words[0].erased) {
    facts.append(element("h3", "", "Erase test"), eraseTest(words, (row, i) => point(row, { kind: "word", i }, false)));
  }
  made.append(look, facts);
  show(null);
  return made;
}

function placed(box, [x1, y1, x2, y2]) {
  Object.assign(box.style, { left: `${100 * x1}%`, top: `${100 * y1}%`, width: `${100 * (x2 - x1)}%`, height: `${100 * (y2 - y1)}%` });
}

function scale() {
  const colours = [0, 51, 102, 153, 204, 255].map((i) => `#${data.heat.substr(6 * i, 6)}`), strip = element("span", "strip");
  strip.style.backgroundImage = `linear-gradient(to right, ${colours.join(",")})`;
  return element("p", "scale", "", "attention: none ", strip, " most");
}

const [first, second] = data.cases;
document.getElementById("heading").textContent = second ? "One photo, two sentences" : "A photo and a sentence";
const hints = [], touch = matchMedia("(pointer: coarse)").matches, verb = touch ? "Tap" : "Point at";
if (first.grid) hints.push(`${verb} a word to see where in the photo it looked${first.beta ? " and which objects looked at it" : ""}.`);
else hints.push(`${verb} a word to see which objects looked at it.`);
if (first.beta) hints.push(`${verb} a box to see which words it looked at.`);
if (!touch) hints.push("A click keeps it. With the keyboard: Tab, then the arrow keys.");
if (second && first.scores.score !== null && second.scores.score !== null) {
  const lead = first.scores.score - second.scores.score;
  hints.push(`Sentence ${lead < 0 ? "B" : "A"} matches better, by ${number(Math.abs(lead))}.`);
}
document.getElementById("hint").textContent = hints.join(" ");
document.getElementById("cases").append(...data.cases.map(caseOf));
document.getElementById("cases").classList.toggle("two", Boolean(second));
