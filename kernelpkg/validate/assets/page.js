// Turns the static charts of a page into plotly ones where plotly.min.js lies beside it; without it they stay as
// they are. Text and grid follow the page's light or dark scheme.
(function () {
  if (!window.Plotly) return;
  function scheme(layout) {
    var style = getComputedStyle(document.documentElement);
    var ink = style.getPropertyValue("--ink").trim();
    var line = style.getPropertyValue("--line").trim();
    var out = JSON.parse(JSON.stringify(layout || {}));
    out.font = Object.assign({}, out.font, { color: ink });
    Object.keys(out).forEach(function (key) {
      if (/^[xy]axis/.test(key)) out[key] = Object.assign({}, out[key], { gridcolor: line, linecolor: line });
    });
    (out.updatemenus || []).forEach(function (menu) { menu.bgcolor = style.getPropertyValue("--tint").trim(); });
    return out;
  }
  function draw() {
    document.querySelectorAll(".figure").forEach(function (box) {
      var data = JSON.parse(box.querySelector("script").textContent);
      Plotly.react(box.querySelector(".plot"), data.data, scheme(data.layout), { responsive: true, displaylogo: false, displayModeBar: "hover" })
        .then(function () { box.classList.add("drawn"); });
    });
  }
  draw();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
