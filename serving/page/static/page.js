"use strict";

/* What JavaScript adds to pages that work without it: a list of the chosen files and a place to drop them; sorting,
   maps and printing on the page of results. All texts come from the pages, in their language. */

document.documentElement.classList.add("scripted");
for (const element of document.querySelectorAll("[data-scripted]")) element.hidden = false;

function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? values[name] : whole));
}

/* Upload */

const MEGABYTE = 2 ** 20;
const IMAGE = /\.(png|jpe?g)$/i;
const SERIES = /\.(dcm|dicom|ima|nii|nii\.gz|zip)$/i;

/* Whether a file is DICOM, whose names often have no ending: by its mark (PS3.10, 7.1). */
async function isDicom(file) {
  try {
    return (await file.slice(128, 132).text()) === "DICM";
  } catch {
    return false;
  }
}

function nameOf(file) {
  return file.webkitRelativePath || file.name;
}

function sizeOf(bytes) {
  return bytes < MEGABYTE ? `${Math.ceil(bytes / 1024)} kB` : `${(bytes / MEGABYTE).toFixed(1)} MB`;
}

/* What was dropped: the files themselves, and those in dropped folders. */
async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return { files: [...transfer.files], inFolder: [] };
  const files = [];
  const inFolder = [];
  const walk = async (entry, path) => {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      // The name with its folders, as the chooser of folders sends it: every folder may hold a 001.png.
      if (path) inFolder.push(new File([file], path + file.name, { type: file.type, lastModified: file.lastModified }));
      else files.push(file);
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!part.length) return;
      for (const inner of part) await walk(inner, `${path}${entry.name}/`);
    }
  };
  for (const entry of entries) await walk(entry, "");
  return { files, inFolder };
}

function setUpUpload(form) {
  const text = (key, values = {}) => fill(form.dataset[`text${key}`], values);
  const counted = (key, count, values = {}) => text(`${key}${count === 1 ? "One" : "Many"}`, { count, ...values });
  const find = (id) => document.getElementById(id);
  const [input, folder, drop, problem, status] = ["files", "folder", "drop", "problem", "status"].map(find);
  const asSeries = find("as_series");
  const most = Number(form.dataset.maxImages);
  const mostSlices = Number(form.dataset.maxSlices);
  const mostOfOne = Number(form.dataset.maxImageMb);
  const mostTogether = Number(form.dataset.maxRequestMb);
  const dicom = new WeakSet(); // files that are so by their content, whatever they are called
  let chosen = [];
  let sending = false;

  // The second chooser only collects for the first, which is the one that is sent.
  folder.removeAttribute("name");
  if (!("webkitdirectory" in folder)) folder.parentElement.hidden = true;

  function complaintAbout(file) {
    if (isSeries(file)) return ""; // it may be larger than one image: the server looks at what is in it
    if (!IMAGE.test(file.name)) return text("WrongType");
    return file.size > mostOfOne * MEGABYTE ? text("TooLarge", { limit: mostOfOne }) : "";
  }

  function isSeries(file) {
    return SERIES.test(file.name) || dicom.has(file);
  }

  /* Finds the DICOM files among those whose names say nothing. */
  async function lookInto(files) {
    for (const file of files) {
      if (!IMAGE.test(file.name) && !isSeries(file) && (await isDicom(file))) dicom.add(file);
    }
  }

  function row(file) {
    const item = document.createElement("li");
    const label = document.createElement("span");
    label.textContent = `${nameOf(file)} `;
    const size = document.createElement("span");
    size.className = "muted";
    size.textContent = sizeOf(file.size);
    label.append(size);
    const complaint = complaintAbout(file);
    if (complaint) {
      const words = document.createElement("span");
      words.className = "complaint";
      words.textContent = complaint;
      label.append(words);
    }
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text("RemoveShort");
    button.setAttribute("aria-label", text("Remove", { file: nameOf(file) }));
    button.addEventListener("click", () => {
      const place = chosen.indexOf(file);
      chosen.splice(place, 1);
      show();
      const buttons = find("chosen-files").querySelectorAll("button");
      (buttons[Math.min(place, buttons.length - 1)] ?? input).focus();
    });
    item.append(label, button);
    return item;
  }

  function refusal() {
    const bytes = chosen.reduce((sum, file) => sum + file.size, 0);
    const series = chosen.filter(isSeries).length;
    const images = chosen.length - series;
    if (Math.max(series, asSeries.checked ? images : 0) > mostSlices) return text("TooManySlices", { limit: mostSlices });
    if (images > most && !asSeries.checked) return text("TooMany", { limit: most });
    if (bytes > mostTogether * MEGABYTE) return text("TooMuch", { limit: mostTogether });
    return "";
  }

  function complain(words) {
    problem.textContent = words;
    problem.hidden = !words;
  }

  function show(passedOver = 0) {
    const transfer = new DataTransfer();
    for (const file of chosen) transfer.items.add(file);
    input.files = transfer.files;
    folder.value = "";
    find("chosen").hidden = !chosen.length;
    find("chosen-files").replaceChildren(...chosen.map(row));
    const size = sizeOf(chosen.reduce((sum, file) => sum + file.size, 0));
    const count = chosen.length ? counted("ChosenCount", chosen.length, { size }) : text("NoneChosen");
    const others = passedOver ? ` ${counted("PassedOver", passedOver)}` : "";
    const wrong = refusal();
    complain(wrong);
    status.textContent = count + others;
    find("submit").disabled = Boolean(wrong);
  }

  function add(files, inFolder = []) {
    if (sending) return;
    const same = (a, b) => nameOf(a) === nameOf(b) && a.size === b.size && a.lastModified === b.lastModified;
    const take = (some) => {
      for (const file of some) if (!chosen.some((other) => same(other, file))) chosen.push(file);
    };
    const isRead = (file) => IMAGE.test(file.name) || isSeries(file);
    const others = inFolder.filter((file) => !isRead(file));
    take([...files, ...inFolder.filter(isRead)]);
    show(others.length);
    if (files.concat(others).every(isRead)) return;
    // Not before: whoever is quick sends what is chosen so far.
    lookInto([...files, ...others]).then(() => {
      if (sending) return;
      take(others.filter(isRead));
      show(others.filter((file) => !isRead(file)).length);
    });
  }

  asSeries.addEventListener("change", () => show());
  input.addEventListener("change", () => add([...input.files]));
  folder.addEventListener("change", () => add([], [...folder.files]));
  find("clear").addEventListener("click", () => {
    chosen = [];
    show();
    input.focus();
  });

  // Anywhere on the page: a file dropped beside the target would otherwise be opened in place of the page.
  let inside = 0;
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragenter", (event) => {
    if (holdsFiles(event)) drop.classList.toggle("over", ++inside > 0);
  });
  document.addEventListener("dragleave", (event) => {
    if (holdsFiles(event)) drop.classList.toggle("over", --inside > 0);
  });
  document.addEventListener("dragover", (event) => {
    if (holdsFiles(event)) event.preventDefault();
  });
  document.addEventListener("drop", async (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    inside = 0;
    drop.classList.remove("over");
    try {
      const { files, inFolder } = await droppedFiles(event.dataTransfer);
      add(files, inFolder);
    } catch {
      complain(text("Unreadable"));
    }
  });

  form.addEventListener("submit", (event) => {
    if (sending || !chosen.length || refusal()) {
      event.preventDefault();
      if (!sending && !chosen.length) {
        complain(text("ChooseFirst"));
        input.focus();
      }
      return;
    }
    sending = true;
    find("submit").disabled = true;
    find("progress").hidden = false;
    complain("");
    status.textContent = counted("Sending", chosen.length);
  });

  // Back from the results, the page may come out of the browser's memory as it was left.
  window.addEventListener("pageshow", () => {
    sending = false;
    find("progress").hidden = true;
    chosen = [...input.files];
    if (chosen.length) show();
    else find("submit").disabled = false;
    lookInto(chosen).then(() => chosen.length && show());
  });
}

/* Results */

function setUpSorting(table) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const compare = new Intl.Collator(document.documentElement.lang, { numeric: true }).compare;
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      const sign = direction === "ascending" ? 1 : -1;
      const value = (line) => line.cells[column].dataset.sort;
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === undefined || y === undefined) return (x === undefined) - (y === undefined); // those without, last
        const [m, n] = [Number(x), Number(y)];
        return sign * (Number.isNaN(m) || Number.isNaN(n) ? compare(x, y) : m - n);
      });
      body.append(...rows);
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", direction);
      const words = { column: button.textContent, direction: table.dataset[`text${direction === "ascending" ? "Ascending" : "Descending"}`] };
      document.getElementById("sorted").textContent = fill(table.dataset.textSorted, words);
    });
  });
}

function setUpMap(figure) {
  const slider = figure.querySelector("input[type=range]");
  const output = figure.querySelector("output");
  const choice = figure.querySelector("select");
  slider.addEventListener("input", () => {
    const words = fill(figure.dataset.textOpacity, { number: slider.value });
    output.textContent = words;
    slider.setAttribute("aria-valuetext", words);
    for (const map of figure.querySelectorAll(".heat")) map.style.opacity = slider.value / 100;
  });
  choice?.addEventListener("change", () => {
    // The maps, and what is said of them below.
    for (const part of figure.querySelectorAll("[data-label]")) part.hidden = part.dataset.label !== choice.value;
  });
}

const upload = document.getElementById("upload");
if (upload) setUpUpload(upload);
const results = document.getElementById("results");
if (results) setUpSorting(results);
document.querySelectorAll(".map").forEach(setUpMap);
document.getElementById("print")?.addEventListener("click", () => window.print());
