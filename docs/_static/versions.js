// Fill the menu of versions. Each version is in a directory with its name, beside versions.json: ["0.2.0", "0.1.0"].
const menu = document.querySelector(".versions select");
const site = new URL(menu.dataset.root, location);

function goTo(version) {
  const page = location.href.slice(site.href.length);
  const target = new URL(`../${version}/`, site);
  // A page that the other version does not have is replaced by its start page.
  fetch(new URL(page, target), { method: "HEAD" })
    .then((response) => { location.assign(response.ok ? new URL(page, target) : target); })
    .catch(() => location.assign(target));
}

async function showVersions() {
  const response = await fetch(new URL("../versions.json", site));
  if (!response.ok) return;
  const versions = await response.json();
  menu.replaceChildren(...versions.map((name) => new Option(name, name, false, name === menu.dataset.version)));
  menu.onchange = () => goTo(menu.value);
  menu.parentElement.hidden = false;
}

// A copy on a disk is one version, and a server without versions.json has one too.
if (location.protocol !== "file:") showVersions().catch(() => {});
