"use strict";
// Filters and sorts the texts; independent of the page.

function fits(text, wanted) {
  if (wanted.origin && text.origin !== wanted.origin) return false;
  if (wanted.by && text.by !== wanted.by) return false;
  if (wanted.decision === "kept" && text.decision !== 0) return false;
  if (wanted.decision === "dropped" && text.decision === 0) return false;
  if (wanted.decision === "wrong" && !mistake(text)) return false;
  if (/^\d+$/.test(wanted.decision) && text.decision !== Number(wanted.decision)) return false;
  const whole = wanted.from <= 0 && wanted.to >= 1;
  if (!whole && (text.p === null || text.p < wanted.from || text.p > wanted.to)) return false;
  const lower = text.text.toLowerCase();
  return wanted.words.every((word) => lower.includes(word));
}

function mistake(text) {
  if (text.true === null || text.true === (text.decision === 0)) return "";
  return text.true ? "dropped, but true" : "kept, but not true";
}

function choose(images, wanted) {
  const found = [];
  for (const image of images) {
    const own = image.texts.filter((text) => fits(text, wanted));
    if (own.length) found.push({ image, texts: own });
  }
  const [score, way] = wanted.sort.split(" ");
  if (!way) return found;
  const sign = way === "down" ? -1 : 1;
  const best = (entry) => Math.min(
    ...entry.texts.map((text) => (text[score] === null ? Infinity : sign * text[score])),
  );
  const keyed = found.map((entry) => [best(entry), entry]);
  keyed.sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0));
  return keyed.map((pair) => pair[1]);
}

function words(search) {
  return search.toLowerCase().split(/\s+/).filter(Boolean);
}

if (typeof module !== "undefined") module.exports = { choose, mistake, words };

// The page.

const gallery = { images: [], add(rows) { for (const row of rows) this.images.push(row); } };

function element(name, classes, text) {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  if (text !== undefined) made.textContent = text;
  return made;
}

function picture(image) {
  if (!image.thumb) return element("div", "missing", "this picture cannot be displayed");
  const shown = element("img", Math.max(...image.size) < 160 ? "small" : "");
  [shown.width, shown.height] = image.size;
  shown.loading = "lazy";
  shown.alt = image.key;
  shown.src = image.thumb;
  return shown;
}

function decisionLine(text, decisions) {
  const line = element("p", "decision-line");
  line.append(element("span", "decision", text.decision === 0 ? "✓ kept" : "✕ dropped"));
  line.append(element("span", "origin", text.by || text.origin));
  const score = element("span", "score");
  score.title = `P(match) ${text.p}, cosine ${text.cosine}`;
  const bar = element("span", "bar");
  const filled = element("i");
  filled.style.width = `${100 * (text.p || 0)}%`;
  bar.append(filled);
  score.append(bar, text.p === null ? "–" : text.p.toFixed(2));
  line.append(score);
  return line;
}

function card(entry, decisions) {
  const { image, texts } = entry;
  const made = element("figure", "card");
  const caption = element("figcaption");
  if (/^https?:/.test(image.url)) {
    const link = element("a", "", image.key);
    link.href = image.url;
    link.rel = "noreferrer";
    caption.append(link);
  } else caption.textContent = image.key;
  const list = element("ul");
  for (const text of texts) {
    const item = element("li", `text ${text.decision === 0 ? "kept" : "dropped"}`);
    const said = element("p", "words", text.text || "(no text)");
    said.dir = "auto";  // right to left where its first letter is
    item.append(decisionLine(text), said);
    if (text.decision) item.append(element("p", "reason", decisions[text.decision]));
    if (mistake(text)) item.append(element("p", "mistake", `⚠ ${mistake(text)}`));
    list.append(item);
  }
  made.append(picture(image), caption, list);
  return made;
}

function start() {
  const form = document.querySelector("#wanted");
  const cards = document.querySelector("#cards");
  const decisions = JSON.parse(form.dataset.decisions);
  const size = Number(form.dataset.page);
  let found = [];
  let page = 0;

  function option(select, value, text, count) {
    if (!count) return;
    const made = element("option", "", `${text} (${count.toLocaleString("en")})`);
    made.value = value;
    select.append(made);
  }

  function fillOptions() {
    const texts = gallery.images.flatMap((image) => image.texts);
    const count = (test) => texts.filter(test).length;
    for (const name of new Set(texts.map((text) => text.origin))) {
      option(form.origin, name, name, count((text) => text.origin === name));
    }
    const writers = [...new Set(texts.map((text) => text.by).filter(Boolean))].sort();
    for (const name of writers) option(form.by, name, name, count((text) => text.by === name));
    form.by.closest("label").hidden = writers.length < 2;
    option(form.decision, "kept", "kept", count((text) => text.decision === 0));
    option(form.decision, "dropped", "dropped", count((text) => text.decision !== 0));
    option(form.decision, "wrong", "⚠ against the truth", count(mistake));
    decisions.forEach((name, code) => {
      if (code) option(form.decision, code, `dropped: ${name}`, count((text) => text.decision === code));
    });
  }

  function show() {
    const pages = Math.max(Math.ceil(found.length / size), 1);
    page = Math.min(Math.max(page, 0), pages - 1);
    const shown = found.slice(page * size, (page + 1) * size);
    cards.replaceChildren(...shown.map((entry) => card(entry, decisions)));
    const texts = found.reduce((sum, entry) => sum + entry.texts.length, 0);
    document.querySelector("#count").textContent =
      `${texts.toLocaleString("en")} texts of ${found.length.toLocaleString("en")} images`;
    for (const pager of document.querySelectorAll(".pager")) {
      pager.querySelector(".place").textContent = `page ${page + 1} of ${pages}`;
      pager.querySelector("[data-step='-1']").disabled = page === 0;
      pager.querySelector("[data-step='1']").disabled = page === pages - 1;
    }
  }

  function change() {
    const wanted = {
      origin: form.origin.value,
      by: form.by.value,
      decision: form.decision.value,
      from: Number(form.from.value),
      to: Number(form.to.value),
      words: words(form.search.value),
      sort: form.sort.value,
    };
    form.querySelector("#range").textContent =
      `${wanted.from.toFixed(2)} to ${wanted.to.toFixed(2)}`;
    found = choose(gallery.images, wanted);
    page = 0;
    show();
  }

  // The filters can be given in the address after #, so that a selection can be linked to.
  function read() {
    for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
      if (form.elements[name]) form.elements[name].value = value;
    }
  }

  function write() {
    const filled = [...new FormData(form)].filter(([name, value]) => {
      const first = { from: "0", to: "1", sort: "order" }[name] ?? "";
      return value !== first;
    });
    history.replaceState(null, "", `#${new URLSearchParams(filled)}`);
  }

  fillOptions();
  read();
  form.addEventListener("input", () => { change(); write(); });
  form.addEventListener("reset", () => setTimeout(() => { change(); write(); }));
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", () => { read(); change(); });
  for (const button of document.querySelectorAll("[data-step]")) {
    button.addEventListener("click", () => {
      page += Number(button.dataset.step);
      show();
      document.querySelector("#gallery").scrollIntoView();
    });
  }
  change();
}
