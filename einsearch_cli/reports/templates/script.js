// Details of a mark on hover, on a tap and by the arrow keys; one structure lit up in all figures at once;
// tables that are sorted by a click on a head, and filtered by words.
(function () {
  "use strict";
  var tip = document.getElementById("tip"), lit = null;
  function light(key) {
    if (key === lit) return;
    document.querySelectorAll(".hot").forEach(function (item) { item.classList.remove("hot"); });
    lit = key;
    document.body.classList.toggle("lit", key !== null);
    if (key === null) return;
    document.querySelectorAll('[data-s="' + key + '"]').forEach(function (item) { item.classList.add("hot"); });
  }
  function show(text, x, y) {
    tip.textContent = "";
    text.split("\n").forEach(function (line, index) {
      var row = document.createElement(index ? "div" : "strong");
      row.textContent = line;
      tip.appendChild(row);
    });
    tip.hidden = false;
    var box = tip.getBoundingClientRect(), gap = 14;
    var left = x + gap + box.width > window.innerWidth ? x - gap - box.width : x + gap;
    var top = y + gap + box.height > window.innerHeight ? y - gap - box.height : y + gap;
    tip.style.left = Math.max(4, left) + "px";
    tip.style.top = Math.max(4, top) + "px";
  }
  function at(node, name) { return node instanceof Element ? node.closest("[" + name + "]") : null; }
  function tell(target, x, y) {
    var told = at(target, "data-tip"), series = at(target, "data-s");
    light(series ? series.getAttribute("data-s") : null);
    if (told) show(told.getAttribute("data-tip"), x, y);
    else tip.hidden = true;
  }
  function hide() { light(null); tip.hidden = true; }
  function middle(item) {
    var box = item.getBoundingClientRect();
    return { x: box.left + box.width / 2, y: box.top + box.height / 2 };
  }
  function marksOf(figure) { return Array.from(figure.querySelectorAll(".plot [data-tip]")).reverse(); }
  document.addEventListener("pointermove", function (event) {
    if (event.pointerType !== "touch") tell(event.target, event.clientX, event.clientY);
  });
  document.addEventListener("pointerdown", function (event) {
    var figure = event.target instanceof Element ? event.target.closest(".panels") : null, nearest = event.target;
    var reach = 28;  // a finger is wider than a mark
    if (event.pointerType === "touch" && figure && !at(nearest, "data-tip")) marksOf(figure).forEach(function (item) {
      var place = middle(item), far = Math.hypot(place.x - event.clientX, place.y - event.clientY);
      if (far < reach) { reach = far; nearest = item; }
    });
    tell(nearest, event.clientX, event.clientY);
  });
  document.addEventListener("pointerleave", function (event) { if (event.pointerType === "mouse") hide(); });

  document.querySelectorAll(".figure").forEach(function (figure) {
    var marks = marksOf(figure), now = 0;
    function go(to) {
      if (!marks.length) return;
      now = (to + marks.length) % marks.length;
      var place = middle(marks[now]);
      tell(marks[now], place.x, place.y);
    }
    figure.addEventListener("focus", function () { if (figure.matches(":focus-visible")) go(now); });
    figure.addEventListener("blur", hide);
    figure.addEventListener("keydown", function (event) {
      var steps = { ArrowRight: now + 1, ArrowDown: now + 1, ArrowLeft: now - 1, ArrowUp: now - 1, Home: 0, End: -1 };
      if (event.key === "Escape") hide();
      if (!(event.key in steps)) return;
      event.preventDefault();
      go(steps[event.key]);
    });
  });
  document.querySelectorAll("td [data-tip]").forEach(function (item) {
    item.addEventListener("focus", function () { tell(item, middle(item).x, middle(item).y); });
    item.addEventListener("blur", hide);
  });
  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("details").forEach(function (item) { item.open = true; });
  });

  var UNITS = { ns: 1e-9, "µs": 1e-6, ms: 1e-3, s: 1, min: 60, h: 3600, d: 86400,
    kB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12, k: 1e3, M: 1e6, B: 1, G: 1e9 };
  function shown(row, column) {
    var cell = row.cells[column], dot = cell.querySelector("[data-x]"), name = cell.querySelector("b, .verdict");
    return dot ? dot.getAttribute("data-x") : (name || cell.firstChild || cell).textContent.trim();
  }
  function valueOf(text) {
    var plain = text.replace(/[⁰¹²³⁴⁵⁶⁷⁸⁹⁻−]/g, function (sign) {
      return "0123456789--"["⁰¹²³⁴⁵⁶⁷⁸⁹⁻−".indexOf(sign)];
    }).replace(/,(?=\d{3})/g, "").replace("×10", "e").replace(/^[><↑↓≥≤ +]+/, "");
    if (/^-?\d+\/\d+$/.test(plain)) return plain.split("/")[0] / plain.split("/")[1];
    if (!/^-?[\d.]+/.test(plain)) return NaN;
    var parts = plain.match(/-?[\d.]+(?:e-?\d+)?\s*[a-zµ]*/gi), sum = 0;
    parts.every(function (part, index) {
      var unit = part.replace(/^-?[\d.]+(e-?\d+)?\s*/i, "");
      if (index && !/^(h|min|s)$/.test(unit)) return false;
      sum += parseFloat(part) * (UNITS[unit] || 1);
      return true;
    });
    return sum;
  }
  function sort(table, column, sign) {
    var groups = [[]], body = table.tBodies[0];  // rows are sorted between the lines that divide a table
    Array.from(body.rows).forEach(function (row) {
      if (row.className === "divider") groups.push([row], []);
      else groups[groups.length - 1].push(row);
    });
    groups.forEach(function (rows) {
      if (rows.length < 2) return;
      var texts = new Map(rows.map(function (row) { return [row, shown(row, column)]; }));
      var known = rows.filter(function (row) { return !/^[–-]?$/.test(texts.get(row)); });
      var areNumbers = known.every(function (row) { return !isNaN(valueOf(texts.get(row))); });
      known.sort(function (a, b) {
        var x = texts.get(a), y = texts.get(b);
        return sign * (areNumbers ? valueOf(x) - valueOf(y) : x.localeCompare(y, "en", { numeric: true }));
      });
      rows.splice.apply(rows, [0, rows.length].concat(known, rows.filter(function (row) { return known.indexOf(row) < 0; })));
    });
    groups.forEach(function (rows) { rows.forEach(function (row) { body.appendChild(row); }); });
  }
  function holds(row, word) {  // a number is the text of a cell, any other word a part of one
    var isNumber = !isNaN(valueOf(word));
    return Array.from(row.cells).some(function (cell, column) {
      var text = shown(row, column).toLowerCase();
      return isNumber ? text.replace(/,/g, "") === word.replace(/,/g, "") || text.indexOf(word) >= 0 && isNaN(valueOf(text))
        : cell.textContent.toLowerCase().indexOf(word) >= 0;
    });
  }
  document.querySelectorAll(".filter").forEach(function (box) {
    var field = box.querySelector("input"), count = box.querySelector("output");
    var rows = Array.from(box.parentNode.querySelector("table").tBodies[0].rows);
    function choose() {
      var words = field.value.toLowerCase().split(/\s+/).filter(Boolean), left = 0;
      rows.forEach(function (row) {
        row.hidden = !words.every(function (word) { return holds(row, word); });
        left += !row.hidden;
      });
      count.textContent = words.length ? left + " of " + rows.length + " rows" : rows.length + " rows";
    }
    field.addEventListener("input", choose);
    box.hidden = false;
    choose();
  });
  document.querySelectorAll("thead").forEach(function (head) {
    Array.from(head.rows[0].cells).forEach(function (cell, column) {
      var button = document.createElement("span");  // a <button> is blank where a head is repeated on the next printed page
      button.setAttribute("role", "button");
      button.tabIndex = 0;
      button.addEventListener("keydown", function (event) {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        button.click();
      });
      button.append.apply(button, Array.from(cell.childNodes));
      cell.appendChild(button);
      button.addEventListener("click", function () {
        var sign = cell.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        head.querySelectorAll("[aria-sort]").forEach(function (other) { other.removeAttribute("aria-sort"); });
        cell.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
        sort(head.parentNode, column, sign);
      });
    });
  });
}());
