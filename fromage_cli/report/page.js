"use strict";
const root = document.documentElement, theme = document.getElementById("theme");
theme.hidden = false;
theme.addEventListener("click", () => {
  const dark = root.classList.contains("dark") ||
    (!root.classList.contains("light") && matchMedia("(prefers-color-scheme: dark)").matches);
  root.classList.toggle("dark", !dark);
  root.classList.toggle("light", dark);
});
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], rows = [...body.rows];
  const said = row => row.textContent.toLowerCase();
  if (rows.length > 5) {
    const label = document.createElement("label"), input = document.createElement("input");
    input.type = "search";
    label.append("Only rows with ", input);
    table.parentElement.before(label);
    input.addEventListener("input", () => {
      const wanted = input.value.toLowerCase();
      for (const row of rows) row.hidden = !said(row).includes(wanted);
    });
  }
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.title = "";
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = row => row.cells[column].textContent;
      const number = row => parseFloat(value(row));
      const compare = (a, b) => {
        const x = number(a), y = number(b);
        if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y) || value(a).localeCompare(value(b));
        return up ? x - y : y - x;
      };
      const numeric = rows.some(row => !isNaN(number(row)));
      const ordered = [...rows].sort(numeric ? compare : (a, b) =>
        (up ? 1 : -1) * value(a).localeCompare(value(b), undefined, {numeric: true}));
      body.append(...ordered);
    });
  });
}
for (const event of ["beforeprint", "afterprint"])
  addEventListener(event, () => {
    for (const one of document.querySelectorAll("details")) {
      if (event === "beforeprint") { one.dataset.was = one.open; one.open = true; }
      else one.open = one.dataset.was === "true";
    }
  });
