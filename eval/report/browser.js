// The sample browser of a report. Everything shown comes from the page's JSON block and is set as text or as an attribute of
// an element made here; nothing is parsed as markup. The address keeps what is open: #sample=ID&select=OBJECT&answers=FILE.
"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const ROWS_AT_ONCE = 200;
  const MARK = { true: "✓", false: "✗", unknown: "?", none: "" };
  const SAID = { true: "so it is", false: "not so", unknown: "cannot be known", none: "claims nothing that is checked" };

  function el(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name === "text") node.textContent = value;
      else if (name.startsWith("on")) { if (value) node.addEventListener(name.slice(2), value); }
      else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children) if (child) node.append(child);
    return node;
  }

  function svg(tag, attributes, ...children) {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name === "text") node.textContent = value;
      else if (name.startsWith("on")) { if (value) node.addEventListener(name.slice(2), value); }
      else if (value !== null && value !== undefined) node.setAttribute(name, value);
    }
    for (const child of children) if (child) node.append(child);
    return node;
  }

  // names come from strangers: one called "constructor" must not find what every object has
  const own = (object, name) => (Object.prototype.hasOwnProperty.call(object, name) ? object[name] : undefined);
  const points = (list) => list.map(([x, y]) => `${x},${y}`).join(" ");
  const number = (value, column) => (value === null || value === undefined ? "–" : (value * (column.scale || 1)).toFixed(column.digits));
  const isWrong = (column, value) => value !== null && (column.key === "error" || (column.least !== undefined && value < column.least));

  class Browser {
    constructor(host, data) {
      this.host = host;
      this.data = data;
      this.files = Object.keys(data.table.scores);
      this.columns = [...data.table.fixed, ...data.table.told];
      this.state = { sample: null, answers: this.files[0], select: new Set(), sort: null, down: false, find: "" };
      this.rule = "";
      this.onlyFull = false;
      this.onlyWrong = false;
      this.shown = ROWS_AT_ONCE;
      this.buildControls();
      this.detail = el("article", { class: "sample", tabindex: "-1", "aria-live": "polite" });
      host.append(this.controls, this.box, this.detail);
      host.addEventListener("keydown", (event) => this.key(event));
    }

    // ---- the table ----

    buildControls() {
      const rules = [...new Set(this.data.table.rows.map((row) => row[2]))].filter((rule) => rule !== null).sort();
      this.finder = el("input", {
        type: "search", placeholder: "find: id, type, rule, error …", "aria-label": "Find samples",
        oninput: () => { this.state.find = this.finder.value; this.shown = ROWS_AT_ONCE; this.drawTable(); this.remember(); },
      });
      const choice = el("select", { "aria-label": "Binding rule", onchange: () => { this.rule = choice.value; this.drawTable(); } },
        el("option", { value: "", text: "any binding rule" }), ...rules.map((rule) => el("option", { value: rule, text: rule })));
      this.fileChoice = el("select", {
        "aria-label": "Whose answers", onchange: () => { this.state.answers = this.fileChoice.value; this.drawTable(); this.drawDetail(); this.remember(); },
      }, ...this.files.map((file) => el("option", { value: file, text: file })));
      const tick = (words, change) => {
        const input = el("input", { type: "checkbox", onchange: () => { change(input.checked); this.drawTable(); } });
        return el("label", { class: "tick" }, input, words);
      };
      this.count = el("span", { class: "count" });
      this.controls = el("div", { class: "controls" },
        el("label", {}, "answers of ", this.fileChoice), this.finder, choice,
        tick("in full", (on) => { this.onlyFull = on; }), tick("failed or false", (on) => { this.onlyWrong = on; }), this.count);
      this.head = el("tr", {});
      this.columns.forEach((column) => {
        const button = el("button", { type: "button", text: column.title, onclick: () => this.sortBy(column.key) });
        this.head.append(el("th", { scope: "col", class: column.text ? "words" : null }, button));
      });
      this.body = el("tbody", {});
      this.more = el("button", { type: "button", class: "more", onclick: () => { this.shown += ROWS_AT_ONCE; this.drawTable(); } });
      this.box = el("div", { class: "samples", tabindex: "0", role: "region", "aria-label": "All samples; arrow keys open the next" },
        el("table", {}, el("thead", {}, this.head), this.body), this.more);
    }

    breakable(text) {  // a name may be broken after its underscores, nowhere else
      return String(text).split(/(?<=[_/])/).flatMap((part, k) => (k ? [el("wbr", {}), part] : [part]));
    }

    sortBy(key) {
      this.state.down = this.state.sort === key ? !this.state.down : Boolean(this.columns.find((c) => c.key === key).worse);
      this.state.sort = key;
      this.drawTable();
      this.remember();
    }

    values(index) {
      return [...this.data.table.rows[index], ...this.data.table.scores[this.state.answers][index]];
    }

    wrong(values) {
      return this.columns.some((column, k) => isWrong(column, values[k]));
    }

    order() {
      const words = this.state.find.toLowerCase().split(/\s+/).filter(Boolean);
      const found = [];
      this.data.table.rows.forEach((row, index) => {
        const values = this.values(index);
        if (this.rule && row[2] !== this.rule) return;
        if (this.onlyFull && !own(this.data.details, row[0])) return;
        if (this.onlyWrong && !this.wrong(values)) return;
        const text = this.columns.map((c, k) => (c.text && values[k] !== null ? values[k] : "")).join(" ").toLowerCase();
        if (words.every((word) => text.includes(word))) found.push([index, values]);
      });
      const at = this.columns.findIndex((column) => column.key === this.state.sort);
      if (at >= 0) {
        const sign = this.state.down ? -1 : 1;
        found.sort(([i, a], [j, b]) => {
          if (a[at] === null || b[at] === null) return (a[at] === null) - (b[at] === null) || i - j;
          return a[at] < b[at] ? -sign : a[at] > b[at] ? sign : i - j;
        });
      }
      return found;
    }

    drawTable() {
      const found = this.order();
      this.ids = found.map(([index]) => this.data.table.rows[index][0]);
      this.head.childNodes.forEach((th, k) => {
        const sorted = this.columns[k].key === this.state.sort;
        if (sorted) th.setAttribute("aria-sort", this.state.down ? "descending" : "ascending"); else th.removeAttribute("aria-sort");
      });
      this.body.replaceChildren(...found.slice(0, this.shown).map(([index, values]) => this.row(values)));
      this.more.hidden = found.length <= this.shown;
      this.more.textContent = `${found.length - this.shown} more`;
      this.count.textContent = `${found.length} of ${this.data.table.rows.length} samples`;
    }

    row(values) {
      const id = values[0];
      const full = own(this.data.details, id) !== undefined;
      const cells = this.columns.map((column, k) => {
        const value = values[k];
        if (k === 0) return el("td", { class: "words id" }, el("i", { class: full ? "full" : "", text: full ? "●" : "", title: full ? "here in full" : null }), ...this.breakable(id));
        if (column.text) return el("td", { class: value && column.key === "error" ? "words bad" : "words" }, ...this.breakable(value === null ? "" : value));
        if (column.flag) return el("td", { class: value ? "bad" : "", text: value === null ? "–" : value ? "miss" : "" });
        return el("td", { class: isWrong(column, value) ? "bad" : "", text: number(value, column) });
      });
      const open = id === this.state.sample;
      return el("tr", { class: open ? "open" : null, "aria-selected": open ? "true" : null, onclick: () => this.open(id) }, ...cells);
    }

    key(event) {
      if (["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName)) return;
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      const inTable = this.box.contains(event.target);
      const step = { ArrowDown: inTable ? 1 : 0, ArrowUp: inTable ? -1 : 0, ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === "Escape") this.select(new Set());
      if (!step) return;
      event.preventDefault();
      this.step(step, !inTable);
    }

    step(by, onlyFull) {
      const ids = onlyFull ? this.ids.filter((id) => own(this.data.details, id)) : this.ids;
      if (!ids.length) return;
      const now = ids.indexOf(this.state.sample);
      this.open(ids[now < 0 ? 0 : Math.min(ids.length - 1, Math.max(0, now + by))]);
    }

    open(id) {
      this.state.sample = id;
      this.state.select = new Set();
      this.shown = Math.max(this.shown, this.ids.indexOf(id) + 1);
      this.drawTable();
      const row = this.body.querySelector("tr.open");
      if (row) {  // inside its own box only, the page stays where it is
        const top = row.offsetTop - this.head.offsetHeight;
        if (top < this.box.scrollTop) this.box.scrollTop = top;
        else if (row.offsetTop + row.offsetHeight > this.box.scrollTop + this.box.clientHeight)
          this.box.scrollTop = row.offsetTop + row.offsetHeight - this.box.clientHeight;
      }
      this.drawDetail();
      this.remember();
    }

    // ---- one sample ----

    drawDetail() {
      const id = this.state.sample;
      const index = this.data.table.rows.findIndex((row) => row[0] === id);
      this.host.dataset.open = id === null ? "" : id;
      if (index < 0) { this.detail.replaceChildren(el("p", { class: "note", text: "Choose a sample above." })); return; }
      const values = this.values(index);
      const known = own(this.data.details, id);
      this.marks = [];
      const parts = [this.header(id, values, known)];
      if (!known) parts.push(el("p", { class: "note", text: "This sample is in the table only; those with ● are here in full." }));
      else {
        const answer = own(known.answers, this.state.answers) || null;
        this.names = new Map((known.objects || []).map((o) => [o.id, o]));
        parts.push(this.cameras(known), this.legend(answer),
          el("div", { class: "below" },
            el("div", {}, this.above(known, answer)),
            el("div", {}, el("div", { class: "said" }, this.text(`Said by ${this.state.answers}`, answer), this.text("Label", known.label)),
              el("div", { class: "said" }, this.about(), this.speeds(known, answer)))),
          el("details", {}, el("summary", { text: "The prompt" }), el("pre", { text: known.prompt })));
      }
      this.detail.replaceChildren(...parts);
      this.select(this.state.select, false);
    }

    header(id, values, known) {
      const turn = (words, by, name) => el("button", { type: "button", text: words, "aria-label": name, onclick: () => this.step(by, true) });
      const chips = [];
      if (known) {
        known.why.forEach((why) => chips.push(el("span", { class: "chip why", text: why })));
        for (const [name, value] of Object.entries(known.facts)) chips.push(el("span", { class: "chip", text: `${name}: ${value}` }));
        if (known.edit) chips.push(el("span", { class: "chip edit", text: `edited: ${known.edit}` }));
        if (known.moved) {
          const moved = own(known.moved.answers, this.state.answers);
          chips.push(el("span", { class: "chip edit", text: `the edit moves the label by ${known.moved.label.toFixed(2)} m${moved === undefined ? "" : `, this answer by ${moved.toFixed(2)} m`}` }));
        }
        known.pair.forEach((other) => chips.push(el("button", {
          type: "button", class: "chip", text: known.edit ? "before the edit" : `after an edit: ${other}`, onclick: () => this.open(other) })));
      }
      const told = this.columns.slice(this.data.table.fixed.length).map((column, k) => {
        const value = values[this.data.table.fixed.length + k];
        if (value === null || value === false || value === undefined) return null;
        const [, name, unit] = column.title.match(/^(.*?)( m| %)?$/);
        const shown = column.flag ? "miss" : column.text ? value : `${name} ${number(value, column)}${unit || ""}`;
        return el("strong", { class: column.flag || isWrong(column, value) ? "bad" : null, text: shown });
      });
      return el("header", {}, el("div", { class: "turn" }, turn("‹", -1, "previous sample in full"), turn("›", 1, "next sample in full")),
        el("h3", { text: id }), el("div", { class: "numbers" }, ...told), el("div", { class: "chips" }, ...chips));
    }

    mark(node, ids) {
      this.marks.push([node, ids]);
      return node;
    }

    cameras(known) {
      const figures = known.cameras.map((camera) => {
        if (camera === null) return el("div", { class: "ego" }, el("span", { text: "ego ↑" }));
        const frame = el("div", { class: "frame" });
        if (camera.image) frame.append(el("img", { src: camera.image, alt: `${camera.words} camera` }));
        else frame.append(el("p", { class: "note", text: "no image here" }));
        if (camera.size && camera.image) frame.append(this.overlay(camera));
        return el("figure", {}, frame, el("figcaption", { text: camera.words }));
      });
      return el("div", { class: figures.length > 3 ? "cams many" : "cams" }, ...figures);
    }

    overlay(camera) {
      const [width, height] = camera.size;
      const layer = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
      const way = (drawn, css) => {
        if (!drawn) return;
        if (drawn.strip) layer.append(svg("path", { class: `strip ${css}`, d: drawn.strip }));
        drawn.dots.forEach(([x, y, r]) => layer.append(svg("circle", { class: `spot ${css}`, cx: x, cy: y, r: r * width / 640 })));
      };
      way(camera.label, "truth");
      way(own(camera.answers, this.state.answers), "told");
      camera.boxes.forEach(([id, outline, edges, visible]) => {
        const group = svg("g", { class: visible ? "thing" : "thing hidden", onclick: () => this.toggle([id]) },
          svg("path", { class: "outline", d: outline }), svg("path", { class: "edges", d: edges }), svg("title", { text: this.named(id) }));
        layer.append(this.mark(group, [id]));
      });
      return layer;
    }

    named(id) {
      const thing = this.names.get(id);
      if (!thing) return id;
      const far = Math.hypot(thing.x_m, thing.y_m);
      const name = thing.name ? `${thing.name} (${id})` : id;
      return `${name}: ${thing.kind}, ${far.toFixed(1)} m away, ${thing.speed_mps.toFixed(1)} m/s`;
    }

    legend(answer) {
      const key = (css, words) => el("li", {}, el("i", { class: `key ${css}` }), words);
      return el("ul", { class: "legend" }, answer && answer.above ? key("told", `${this.state.answers}: where it would drive`) : null,
        key("truth", "label"), key("past", "history"), key("thing", "objects: click one to see what is said of it"));
    }

    above(known, answer) {
      const view = known.above;
      const [left, top, width, height] = view.window;
      const picture = svg("svg", { class: "road", viewBox: `${left} ${top} ${width} ${height}`, role: "img" }, svg("title", { text: "The scene from above, ahead is up" }));
      view.road.forEach(([css, d]) => picture.append(svg("path", { class: css, d })));
      if (!view.road.length) {
        for (let x = Math.ceil(left / 10) * 10; x < left + width; x += 10) picture.append(svg("path", { class: "metres", d: `M${x} ${top}v${height}` }));
        for (let y = Math.ceil(top / 10) * 10; y < top + height; y += 10) picture.append(svg("path", { class: "metres", d: `M${left} ${y}h${width}` }));
      }
      for (const [id, corners] of Object.entries(view.boxes)) {
        const thing = this.names.get(id);
        const [x, y] = [0, 1].map((k) => corners.reduce((sum, c) => sum + c[k], 0) / 4);
        const size = Math.max(...[0, 1].map((k) => Math.max(...corners.map((c) => c[k])) - Math.min(...corners.map((c) => c[k]))));
        const group = svg("g", { class: `thing ${kindOf(thing.kind)}${thing.cameras.length ? "" : " unseen"}`, onclick: () => this.toggle([id]) },
          svg("circle", { class: "reach", cx: x, cy: y, r: Math.max(1.2, size / 2) }),
          size < 1.2 ? svg("circle", { class: "body", cx: x, cy: y, r: 0.6 }) : svg("polygon", { class: "body", points: points(corners) }),
          size < 1.2 ? null : svg("path", { class: "nose", d: nose(corners) }),
          svg("text", { class: thing.name ? "name" : "name quiet", x: x + 1.7, y: y + 0.5, text: thing.name || id }), svg("title", { text: this.named(id) }));
        picture.append(this.mark(group, [id]));
      }
      const way = (list, css) => {
        picture.append(svg("polyline", { class: `way ${css}`, points: points(list) }));
        list.slice(1).forEach(([x, y]) => picture.append(svg("circle", { class: `spot ${css}`, cx: x, cy: y, r: 0.42 })));
      };
      picture.append(svg("polyline", { class: "way past", points: points(view.history) }), svg("polygon", { class: "ego", points: points(view.ego) }), svg("path", { class: "egonose", d: nose(view.ego) }));
      way(view.label, "truth");
      if (answer && answer.above) {
        answer.above.slice(1).forEach(([x, y], k) => { const to = view.label[k + 1]; if (to) picture.append(svg("path", { class: "apart", d: `M${x} ${y}L${to[0]} ${to[1]}` })); });
        way(answer.above, "told");
      }
      const bar = [left + width - 13, top + height - 2];
      picture.append(svg("path", { class: "scale", d: `M${bar[0]} ${bar[1] - 0.8}v0.8h10v-0.8` }), svg("text", { class: "scale", x: bar[0] + 5, y: bar[1] - 1.2, text: "10 m" }));
      return el("figure", { class: "above" }, picture, known.noRoad ? el("p", { class: "note", text: known.noRoad }) : null,
        known.objects === null ? el("p", { class: "note", text: "This data set does not list its objects." }) : null);
    }

    speeds(known, answer) {
      const lines = [["truth", known.label.speeds], ...(answer && answer.speeds ? [["told", answer.speeds]] : [])];
      const most = Math.max(2, ...lines.flatMap(([, list]) => list));
      const step = [0.5, 1, 2, 5, 10, 20, 50, 100, 1000, 10000].find((s) => most / s <= 4) || most;
      const high = Math.ceil(most / step) * step;
      const x = (k) => 40 + 350 * (0.5 * k + 0.25) / 5, y = (v) => 130 - 112 * v / high;
      const chart = svg("svg", { viewBox: "0 0 400 166", class: "speeds", role: "img" }, svg("title", { text: "Speed over time" }));
      for (let v = 0; v <= high + 1e-9; v += step) chart.append(svg("line", { class: "grid", x1: 40, x2: 390, y1: y(v), y2: y(v) }), svg("text", { class: "end", x: 34, y: y(v) + 4, text: String(Math.round(v * 10) / 10) }));
      for (let s = 0; s <= 5; s += 1) chart.append(svg("text", { class: "middle", x: 40 + 70 * s, y: 147, text: String(s) }));
      chart.append(svg("text", { class: "end", x: 390, y: 162, text: "s" }), svg("text", { x: 2, y: 11, text: "m/s" }));
      lines.forEach(([css, list]) => chart.append(svg("polyline", { class: `way ${css}`, points: points(list.map((v, k) => [x(k).toFixed(1), y(v).toFixed(1)])) })));
      return el("figure", {}, el("figcaption", { text: "Speed" }), chart);
    }

    // ---- texts ----

    text(title, answer) {
      const box = el("div", { class: "words" }, el("h4", { text: title }));
      if (!answer) { box.append(el("p", { class: "note", text: "no text: computed, not asked" })); return box; }
      if (answer.error) box.append(el("p", { class: "bad", text: answer.error }));
      const list = el("ol", { class: "lines" });
      answer.lines.forEach((line) => list.append(this.line(line)));
      box.append(list);
      const counted = { true: 0, false: 0, unknown: 0 };
      answer.lines.forEach((line) => line.claims.forEach(([verdict]) => { counted[verdict] += 1; }));
      if (counted.true + counted.false + counted.unknown)
        box.append(el("p", { class: "note", text: `${counted.true} claims true, ${counted.false} false, ${counted.unknown} not known` }));
      if (answer.unread) box.append(el("p", { class: "note", text: `Could not be read to its end: ${answer.unread}` }));
      if (answer.missing.length) {
        const left = el("ul", { class: "missing" }, el("li", { text: "not said, though the planner says it:" }));
        answer.missing.forEach(([what, about]) => {
          const item = el("li", { class: about === null ? null : "points", text: what, onclick: about === null ? null : () => this.toggle([about]) });
          left.append(about === null ? item : this.mark(item, [about]));
        });
        box.append(left);
      }
      if (answer.left_out > 0) box.append(el("p", { class: "note", text: `… ${answer.left_out} more characters` }));
      return box;
    }

    line(line) {
      const verdicts = line.claims.map(([verdict]) => verdict);
      const verdict = verdicts.includes("false") ? "false" : verdicts.includes("true") ? "true" : verdicts.length ? "unknown" : "none";
      const ids = [...new Set(line.claims.map(([, , , about]) => about).filter((id) => id !== null))];
      const item = el("li", { class: `line ${verdict}${ids.length ? " points" : ""}`, tabindex: line.claims.length ? "0" : null, role: line.claims.length ? "button" : null });
      item.append(el("i", { text: MARK[verdict], "aria-label": SAID[verdict] }), el("span", { text: line.text || " " }));
      if (line.claims.length) {
        const act = () => this.toggle(ids, line);
        item.addEventListener("click", act);
        item.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); act(); } });
        const hint = (event) => this.hint(item, line);
        item.addEventListener("mouseenter", hint);
        item.addEventListener("focus", hint);
        item.addEventListener("mouseleave", () => this.hint(null));
        item.addEventListener("blur", () => this.hint(null));
      }
      return this.mark(item, ids);
    }

    claims(line) {
      return el("ul", { class: "claims" }, ...line.claims.map(([verdict, said, truth, about]) =>
        el("li", { class: verdict }, el("i", { text: MARK[verdict] }), el("span", {}, el("b", { text: said }), truth ? ` ${SAID[verdict] === "so it is" ? "so it is" : "in truth"}: ${truth}` : ` (${SAID[verdict]})`, about ? el("small", { text: ` ${about}` }) : null))));
    }

    hint(item, line) {
      if (this.bubble) { this.bubble.remove(); this.bubble = null; }
      if (!item) return;
      this.bubble = el("div", { class: "bubble", role: "tooltip" }, this.claims(line));
      this.host.append(this.bubble);
      const at = item.getBoundingClientRect(), host = this.host.getBoundingClientRect();
      const left = Math.max(0, Math.min(at.left - host.left, host.width - this.bubble.offsetWidth));
      this.bubble.style.left = `${left}px`;
      this.bubble.style.top = `${at.bottom - host.top + 4}px`;
    }

    // ---- what is chosen ----

    about() {
      this.panel = el("div", { class: "about" });
      return this.panel;
    }

    toggle(ids, line) {
      const same = ids.length > 0 && ids.length === this.state.select.size && ids.every((id) => this.state.select.has(id));
      this.picked = same ? null : line || null;
      this.select(same ? new Set() : new Set(ids));
    }

    select(ids, write = true) {
      this.state.select = ids;
      this.host.dataset.select = [...ids].join(" ");
      (this.marks || []).forEach(([node, about]) => node.classList.toggle("on", about.some((id) => ids.has(id))));
      this.detail.classList.toggle("choosing", ids.size > 0);
      if (this.panel) {
        const parts = [...ids].map((id) => el("p", { text: this.named(id) }));
        if (write && this.picked) parts.push(this.claims(this.picked));
        if (!parts.length) parts.push(el("p", { class: "note", text: "Point at a sentence to read what is so; click on it, or on an object, to see which belong together." }));
        this.panel.replaceChildren(...parts);
      }
      if (write) this.remember();
    }

    // ---- the address ----

    remember() {
      const said = new URLSearchParams();
      if (this.state.sample !== null) said.set("sample", this.state.sample);
      if (this.state.answers !== this.files[0]) said.set("answers", this.state.answers);
      if (this.state.sort !== null) said.set("sort", (this.state.down ? "-" : "") + this.state.sort);
      if (this.state.find) said.set("find", this.state.find);
      this.state.select.forEach((id) => said.append("select", id));
      this.written = `#${said}`;
      try { history.replaceState(null, "", this.written); } catch (error) { /* a page inside a frame has no address of its own */ }
    }

    recall(said) {
      const answers = said.get("answers"), sort = said.get("sort");
      if (answers !== null && this.files.includes(answers)) this.state.answers = this.fileChoice.value = answers;
      if (sort !== null) { this.state.down = sort.startsWith("-"); this.state.sort = sort.replace(/^-/, ""); }
      if (said.get("find") !== null) this.state.find = this.finder.value = said.get("find");
      this.drawTable();
      const wanted = said.get("sample");
      this.state.sample = this.has(wanted) ? wanted : Object.keys(this.data.details)[0] || null;
      this.state.select = new Set(said.getAll("select"));
      this.drawTable();
      this.drawDetail();
      if (this.has(wanted)) this.detail.scrollIntoView({ block: "start" });
    }

    has(id) {
      return id !== null && this.data.table.rows.some((row) => row[0] === id);
    }
  }

  function kindOf(kind) {
    return ["vehicle", "bicycle", "pedestrian", "traffic_cone", "barrier", "czone_sign", "generic_object"].includes(kind) ? kind : "generic_object";
  }

  function nose(corners) {
    const [a, b, c, d] = corners;
    const mix = (p, q, t) => [p[0] + (q[0] - p[0]) * t, p[1] + (q[1] - p[1]) * t];
    const tip = mix(mix(a, b, 0.5), mix(d, c, 0.5), 0.08), left = mix(mix(a, d, 0.35), mix(b, c, 0.35), 0.12), right = mix(mix(a, d, 0.35), mix(b, c, 0.35), 0.88);
    return `M${left[0].toFixed(2)} ${left[1].toFixed(2)}L${tip[0].toFixed(2)} ${tip[1].toFixed(2)}L${right[0].toFixed(2)} ${right[1].toFixed(2)}z`;
  }

  const browsers = [];
  JSON.parse(document.getElementById("browser-data").textContent).forEach((data, k) => {
    const host = document.getElementById(`browser-${k}`);
    if (host && data.table) browsers.push(new Browser(host, data));
  });
  function recall() {
    const said = new URLSearchParams(location.hash.slice(1));
    const wanted = said.get("sample");
    browsers.forEach((browser, k) => browser.recall(browser.has(wanted) || (wanted === null && k === 0) ? said : new URLSearchParams()));
  }
  window.addEventListener("hashchange", () => { if (!browsers.some((browser) => browser.written === location.hash)) recall(); });
  recall();
})();
