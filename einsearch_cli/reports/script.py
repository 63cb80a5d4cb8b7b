"""The script of the report: details on hover, and one structure lit up in all figures at once."""

from __future__ import annotations

SCRIPT = """
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
    text.split("\\n").forEach(function (line, index) {
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
  document.addEventListener("pointermove", function (event) {
    var target = event.target instanceof Element ? event.target : null;
    var told = target && target.closest("[data-tip]"), series = target && target.closest("[data-s]");
    light(series ? series.getAttribute("data-s") : null);
    if (told) show(told.getAttribute("data-tip"), event.clientX, event.clientY);
    else tip.hidden = true;
  });
  document.addEventListener("pointerleave", function () { light(null); tip.hidden = true; });
}());
"""
