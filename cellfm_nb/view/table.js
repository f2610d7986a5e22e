// A table of rows one of which is chosen: by a click, by the arrow keys, or from Python.
function render({ model, el }) {
  const box = document.createElement("div");
  box.className = "cellfm-table";
  box.tabIndex = 0;
  box.style.cssText = "max-height:420px;overflow:auto;font:12px sans-serif;border:1px solid #ccc";
  const table = document.createElement("table");
  table.style.cssText = "border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums";
  box.append(table);
  el.append(box);
  const lines = new Map();

  function choose(row) {
    model.set("row", row);
    model.save_changes();
  }

  function fill() {
    lines.clear();
    const head = table.createTHead().insertRow();
    for (const name of model.get("columns")) {
      const cell = document.createElement("th");
      cell.textContent = name;
      cell.style.cssText = "text-align:right;padding:2px 8px;position:sticky;top:0;background:#eee;color:#000";
      head.append(cell);
    }
    const body = table.createTBody();
    for (const [row, ...values] of model.get("rows")) {
      const line = body.insertRow();
      line.dataset.row = row;
      line.style.cursor = "pointer";
      line.onclick = () => choose(row);
      for (const value of values) {
        const cell = line.insertCell();
        cell.textContent = value;
        cell.style.cssText = "text-align:right;padding:1px 8px";
      }
      lines.set(row, line);
    }
  }

  function mark() {
    for (const line of lines.values()) {
      line.style.background = "";
      line.style.color = "";
      line.classList.remove("chosen");
    }
    const line = lines.get(model.get("row"));
    if (!line) return;
    line.classList.add("chosen");
    line.style.background = "#0072B2";
    line.style.color = "#fff";
    box.scrollTop = line.offsetTop - box.clientHeight / 2; // only the box scrolls, never the page
  }

  box.onkeydown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const order = [...lines.keys()];
    const next = order[order.indexOf(model.get("row")) + step];
    if (next !== undefined) choose(next);
  };
  fill();
  mark();
  model.on("change:row", mark);
}
export default { render };
