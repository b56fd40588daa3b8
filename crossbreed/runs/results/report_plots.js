const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
function draw() {
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const axis = { gridcolor: colour("line"), zerolinecolor: colour("line"), linecolor: colour("line"), automargin: true };
  for (const [id, figure] of Object.entries(figures)) {
    const layout = structuredClone(figure.layout);
    for (const key of new Set(["xaxis", "yaxis", ...Object.keys(layout)]))
      if (/^[xy]axis/.test(key)) layout[key] = { ...axis, ...layout[key] };
    Object.assign(layout, {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", colorway: [colour("soft")],
      font: { family: "system-ui, sans-serif", size: 13, color: colour("ink") },
      hoverlabel: { bgcolor: colour("wash"), bordercolor: colour("line"), font: { color: colour("ink") } },
    });
    Plotly.react(id, figure.data, layout, { responsive: true, displaylogo: false, displayModeBar: false });
  }
}
draw();
dark.addEventListener("change", draw);
