"use strict";
(() => {
  const options = {
    responsive: true, displaylogo: false, modeBarButtons: [["toImage"]],
    toImageButtonOptions: { format: "svg", filename: document.title.replace(/[^\w.-]+/g, "_") },
  };
  const plots = [...document.querySelectorAll(".plot")];
  const visible = (plot) => plot.offsetParent !== null;
  const draw = (plot) => {
    if (plot.drawn || !visible(plot)) return;
    const figure = JSON.parse(plot.querySelector("script").textContent);
    plot.drawn = true;
    Plotly.newPlot(plot, figure.data, figure.layout, options);
  };
  const resize = () => plots.filter((plot) => plot.drawn && visible(plot)).forEach((plot) => Plotly.Plots.resize(plot));
  plots.forEach(draw);

  const select = document.getElementById("heat");
  const show = () => {
    document.querySelectorAll("[data-heat]").forEach((view) => { view.hidden = view.dataset.heat !== select.value; });
    plots.forEach(draw);
    resize();
  };
  if (select) { select.addEventListener("change", show); show(); }

  const printing = (on) => {
    document.body.classList.toggle("printing", on);
    document.querySelectorAll("details").forEach((details) => { details.open = on; });
    resize();
  };
  addEventListener("beforeprint", () => printing(true));
  addEventListener("afterprint", () => printing(false));
})();
