"use strict";
// Draws the figures, and sorts and filters the table. Nothing here uses a network.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const PRINTED_WIDTH = 680;
  let printing = false;

  function template() {
    const night = dark.matches && !printing;
    const ink = night ? "#e4e8ed" : "#1b2430", line = night ? "#323a44" : "#dfe4ea";
    const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true, title: { standoff: 8 } };
    return {
      layout: {
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", colorway: ["#0072B2", "#D55E00", "#009E73"],
        font: { color: ink, family: "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", size: 12.5 },
        margin: { l: 56, r: 16, t: 20, b: 50 }, xaxis: axis, yaxis: axis, hovermode: "closest",
        hoverlabel: { bgcolor: night ? "#2a323c" : "#ffffff", font: { color: ink } },
        annotationdefaults: { font: { color: ink } },
        modebar: { bgcolor: "rgba(0,0,0,0)", color: night ? "#9aa6b4" : "#8a94a3", activecolor: ink },
      },
    };
  }

  const plots = [...document.querySelectorAll(".plot")];
  const config = { displaylogo: false, responsive: true, scrollZoom: false };
  const nextFrame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  // The page can be read and used before plotly.js has started, and between two figures.
  async function draw() {
    await nextFrame();
    const script = document.createElement("script");
    script.textContent = document.getElementById("plotly").textContent;
    document.head.append(script);
    for (const plot of plots) {
      await nextFrame();
      const { data, layout } = figures[plot.dataset.figure];
      await Plotly.newPlot(plot, data, { ...layout, template: template(), autosize: true }, config);
    }
    document.documentElement.dataset.drawn = String(plots.length);
  }
  function restyle() {
    for (const plot of plots) {
      if (!plot.data) continue;
      const size = printing ? { autosize: false, width: PRINTED_WIDTH } : { autosize: true, width: null };
      Plotly.relayout(plot, { template: template(), ...size });
    }
  }
  dark.addEventListener("change", restyle);
  addEventListener("beforeprint", () => { printing = true; restyle(); });
  addEventListener("afterprint", () => { printing = false; restyle(); });

  const table = document.getElementById("table");
  if (table) {
    const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
    const rows = [...body.rows].map((row) => ({ row, text: row.textContent.toLowerCase() }));
    const filter = document.getElementById("filter"), state = document.getElementById("state");
    const key = (row, column) => {
      const cell = row.cells[column];
      return cell.dataset.sort !== undefined ? Number(cell.dataset.sort) : cell.textContent;
    };
    const show = () => {
      const wanted = filter.value.trim().toLowerCase();
      let shown = 0;
      for (const { row, text } of rows) {
        row.hidden = !text.includes(wanted) || (state.value !== "" && row.dataset.state !== state.value);
        shown += row.hidden ? 0 : 1;
      }
      document.getElementById("count").textContent = `${shown} of ${rows.length} trials`;
    };
    const sort = (column) => {
      const head = heads[column], down = head.ariaSort === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const keyed = rows.map(({ row }, index) => ({ row, index, key: key(row, column) }));
      keyed.sort((a, b) => {
        // Empty cells come last in both directions.
        if ((a.key === "") !== (b.key === "")) return a.key === "" ? 1 : -1;
        const order = typeof a.key === "number" && typeof b.key === "number"
          ? a.key - b.key : String(a.key).localeCompare(String(b.key), undefined, { numeric: true });
        return (down ? -order : order) || a.index - b.index;
      });
      body.append(...keyed.map(({ row }) => row));
    };
    heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => sort(column)));
    filter.addEventListener("input", show);
    state.addEventListener("change", show);
    show();
  }

  const dialog = document.querySelector("dialog");
  for (const button of document.querySelectorAll("button.image")) {
    button.addEventListener("click", () => {
      const image = button.firstElementChild, large = dialog.querySelector("img");
      large.src = image.src;
      large.alt = image.alt;
      dialog.showModal();
    });
  }
  draw();
})();
