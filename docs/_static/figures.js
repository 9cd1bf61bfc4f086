// Draws each plotly figure of the page in place of its picture when it comes near the window, scaled to its column.
const near = new IntersectionObserver((entries) => entries.filter((e) => e.isIntersecting).forEach((e) => draw(e.target)), {
  rootMargin: "600px",
});

function fit(box) {
  const plot = box.querySelector(".js-plotly-plot");
  const scale = Math.min(1, box.clientWidth / plot.offsetWidth);
  plot.style.transform = `scale(${scale})`;
  box.style.height = `${plot.offsetHeight * scale}px`;
}

async function draw(box) {
  near.unobserve(box);
  const figure = JSON.parse(box.querySelector("script").textContent);
  const plot = document.createElement("div");
  plot.style.cssText = `width: ${figure.layout.width}px; height: ${figure.layout.height}px; transform-origin: 0 0;`;
  box.append(plot);
  await Plotly.newPlot(plot, { ...figure, config: { displaylogo: false, displayModeBar: false } });
  box.querySelector("img")?.remove();
  fit(box);
  new ResizeObserver(() => fit(box)).observe(box);
}

document.querySelectorAll(".live-figure").forEach((box) => near.observe(box));
