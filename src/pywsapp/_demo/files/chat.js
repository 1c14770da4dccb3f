import { connect } from "../pywsapp.js";

const $ = (id) => document.getElementById(id);
const GROUP_SECONDS = 300, MAX_LINES = 500, START_ROOMS = ["lobby", "ideas", "music"];

// The state of the page. `wanted` is the name that the user chose, `name` the one that the server assigned ("Ana 2").
const key = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
const me = { wanted: "", name: "", room: "" };
let client = null, people = null, room = null;  // the connection, and the subscriptions to two topics
let wish = null;             // the name and the room that the server has not answered yet
let here = new Map();        // the names of the people in this room
let waiting = 0;             // texts that were sent and have no answer
const refused = [];          // texts that were refused, to put back into the box
let unread = 0;
let stick = true;            // whether the end of the log is in view, so that it scrolls with new messages

// If the browser forbids storage, nothing is remembered.
function remember(store, name, value) { try { window[store].setItem("pywsapp." + name, value); } catch { /* forbidden */ } }
function recall(store, name) { try { return window[store].getItem("pywsapp." + name) || ""; } catch { return ""; } }

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}
function hue(name) {
  let hash = 0x811c9dc5;  // FNV-1a
  for (const byte of new TextEncoder().encode(name)) hash = Math.imul(hash ^ byte, 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);  // names differ in few bits, colours should in many
  return ((hash ^ (hash >>> 13)) >>> 0) % 360;
}
function initial(name) {
  const first = Intl.Segmenter ? [...new Intl.Segmenter().segment(name)][0]?.segment : [...name][0];
  return (first || "").toUpperCase();
}
function face(name) {
  const element = make("span", "face", initial(name));
  element.setAttribute("aria-hidden", "true");
  element.style.setProperty("--hue", hue(name));
  return element;
}

// ---- the connection -------------------------------------------------------------------------------------------

function enter(name, roomName) {
  me.wanted = name;
  wish = { name, room: roomName };
  if (people) return people.track(wish);
  client ??= open();
  people = client.subscribe("people", { presence: true, track: wish });
  people.on("presence", showPeople);
  people.on("error", ({ message }) => {
    history.replaceState(null, "", "#" + encodeURIComponent(me.room));
    if (people.state === "ended") { people = null; return ask(message); }
    notice(message);
    me.wanted = me.name;
    if (wish) people.track({ name: me.name, room: me.room });  // for the next connection
    wish = null;
  });
}
function open() {
  const connection = connect("chat", { token: () => key });
  showStatus("Connecting…");
  connection.on("state", (state) => {
    if (state === "open") return;
    if (me.room && $("offline").hidden) announce("Connection lost");
    $("offline").hidden = !me.room;
    showStatus(state === "closed" ? connection.reason.message : me.room ? "Reconnecting…" : "Connecting…", "off");
  });
  return connection;
}
function follow(options = { since: null }) {
  const log = $("log");
  room?.unsubscribe();
  log.replaceChildren();
  log.setAttribute("aria-busy", "true");  // screen readers do not read the history aloud
  toBottom();
  room = client.subscribe("room:" + me.room.replaceAll(" ", "/"), options, ({ data }) => {
    addMessage(data);
    if (room.state === "subscribed" && document.hidden && data.name !== me.name) { unread++; showTitle(); }
  });
  room.on("lost", () => addLine("Some messages are missing here"));
  room.on("error", ({ code, message }) => code === "no_history" ? follow({}) : notice(message));
  room.on("subscribed", () => {
    showStatus("Connected", "on");
    announce(log.hasAttribute("aria-busy") ? `Connected, you are in ${me.room}` : "Connected again");
    $("offline").hidden = true;
    if (!log.firstChild) log.append(make("p", "empty", "No messages yet. Say hello!"));
    showNewName();
    setTimeout(() => log.removeAttribute("aria-busy"));
  });
}
async function say(text) {
  waiting++;
  try {
    await client.publish(room.topic, text);
  } catch (error) {
    refused.push(text);
    notice(error.message);
  }
  if (--waiting || !refused.length) return;
  $("text").value = refused.splice(0).concat($("text").value || []).join("\n");
  fit();
}
function showStatus(text, state = "") { $("status").textContent = text; $("status").className = "status " + state; }
function announce(text) { $("spoken").textContent = text; }

document.addEventListener("visibilitychange", () => { if (!document.hidden) { unread = 0; showTitle(); } });
$("retry").onclick = () => client.reconnect();

// ---- people ---------------------------------------------------------------------------------------------------

function showPeople() {
  const mine = people.present.get(client.user), hasMoved = mine && mine.room !== me.room;
  if (mine && (hasMoved || mine.name !== me.name)) showMe(mine);
  const before = here;
  here = new Map([...people.present].filter(([, person]) => person.room === me.room).map(([who, { name }]) => [who, name]));
  if (hasMoved) follow();
  else if (room?.state === "subscribed") {
    showLines(before, here, "left");
    showLines(here, before, "joined");
  }
  showLists();
}
function showMe({ name, room: roomName }) {
  const isRenamed = roomName === me.room;
  wish = null;
  Object.assign(me, { name, room: roomName });
  history.replaceState(null, "", "#" + encodeURIComponent(me.room));
  remember("sessionStorage", "name", me.wanted);
  remember("localStorage", "name", me.wanted);
  notice("");
  document.body.classList.remove("fresh");
  if ($("welcome").open) $("welcome").close();
  showTitle();
  if (isRenamed) showNewName();
}
function showNewName() {
  if (me.name !== me.wanted) addLine("This name is taken, so your name is ", make("bdi", "", me.name));
}
function showLines(some, others, what) {
  for (const [who, name] of some) if (who !== client.user && others.get(who) !== name) addLine(make("bdi", "", name), " " + what);
}
function showLists() {
  const names = [...here.values()].sort((a, b) => a.localeCompare(b)), sizes = new Map(START_ROOMS.map((name) => [name, 0]));
  for (const person of people.present.values()) sizes.set(person.room, (sizes.get(person.room) ?? 0) + 1);
  $("people").replaceChildren(...names.map((name) => {
    const item = make("li", "person");
    item.append(face(name), make("bdi", "", name));
    if (name === me.name) item.append(make("span", "number", "you"));
    return item;
  }));
  $("people-count").textContent = $("menu-count").textContent = names.length;
  $("my-name").textContent = me.name;
  $("my-face").textContent = initial(me.name);
  $("my-face").style.setProperty("--hue", hue(me.name));
  $("room-name").textContent = me.room;
  const focused = document.activeElement?.closest?.("#rooms a")?.hash;
  $("rooms").replaceChildren(...[...sizes].map(([name, size]) => {
    const item = make("li"), anchor = make("a");
    anchor.href = "#" + encodeURIComponent(name);
    anchor.append(make("bdi", "", name), make("span", "number", size || ""));
    if (name === me.room) anchor.setAttribute("aria-current", "page");
    item.append(anchor);
    return item;
  }));
  if (focused) [...$("rooms").querySelectorAll("a")].find((anchor) => anchor.hash === focused)?.focus();
}

// ---- messages -------------------------------------------------------------------------------------------------

function addMessage({ name, text, time }) {
  addToLog((log) => {
    const moment = new Date(time * 1000), day = moment.toDateString();
    if (log.dataset.day !== day || !log.querySelector(".day")) {
      log.dataset.day = day;
      const today = day === new Date().toDateString();
      log.append(make("p", "day", today ? "Today" : moment.toLocaleDateString([], { weekday: "long", day: "numeric", month: "long" })));
    }
    let group = log.lastElementChild;
    if (group.dataset.name !== name || time - group.dataset.time > GROUP_SECONDS) {
      const by = make("div", "by"), shown = make("time", "", moment.toLocaleTimeString([], { hour: "numeric", minute: "2-digit" }));
      group = make("div", name === me.name ? "group mine" : "group");
      group.dataset.name = name;
      group.dataset.time = time;
      group.style.setProperty("--hue", hue(name));
      shown.dateTime = moment.toISOString();
      by.append(make("bdi", "", name), shown);
      group.append(face(name), by, make("div", "bubbles"));
      log.append(group);
    }
    const bubble = make("div", "bubble", text);
    bubble.dir = "auto";
    group.lastElementChild.append(bubble);
  });
}
function addLine(...parts) {
  const line = make("p", "line");
  line.append(...parts);
  addToLog((log) => log.append(line));
}
function addToLog(add) {
  const log = $("log");
  log.querySelector(".empty")?.remove();
  add(log);
  while (log.childElementCount > MAX_LINES) log.firstElementChild.remove();
  if (stick) toBottom(); else $("newer").hidden = false;
}
function toBottom() { $("log").scrollTop = $("log").scrollHeight; $("newer").hidden = true; }
function showTitle() { document.title = (unread ? `(${unread}) ` : "") + (me.room ? `#${me.room} · ` : "") + "pywsapp chat"; }
let noticeTimer = 0;
function notice(text) {
  clearTimeout(noticeTimer);
  $("notice").textContent = text;
  $("notice").hidden = !text;
  if (text) noticeTimer = setTimeout(notice, 6000, "");
}

// ---- input ----------------------------------------------------------------------------------------------------

function roomInAddress() {
  try { return decodeURIComponent(location.hash.slice(1)) || me.room || "lobby"; } catch { return me.room || "lobby"; }
}
function ask(error = "") {
  $("name").value = me.wanted || recall("localStorage", "name");
  $("welcome-text").textContent = me.room ? "Everyone in this room will see the new name." : `Everyone in #${roomInAddress()} will see this name.`;
  $("welcome-error").textContent = error;
  $("welcome-error").hidden = !error;
  $("cancel").hidden = !me.room;
  $("enter").textContent = me.room ? "Rename" : "Enter";
  document.body.classList.toggle("fresh", !me.room);
  if (!$("welcome").open) $("welcome").showModal();
  $("name").select();
}
function fit() {
  const box = $("text");
  box.style.height = "auto";
  box.style.height = box.scrollHeight + 2 + "px";
  remember("sessionStorage", "draft", box.value);
}
function openDrawer(open) {
  $("app").classList.toggle("drawer", open);
  $("menu").setAttribute("aria-expanded", open);
  $("main").inert = open;
  (open ? $("shut") : $("menu")).focus();
}
$("welcome").querySelector("form").onsubmit = (event) => {
  event.preventDefault();
  if (!$("name").value.trim()) return $("name").focus();
  enter($("name").value.trim(), me.room || roomInAddress());
  if (me.room) $("welcome").close();
  if (matchMedia("(pointer: fine)").matches) $("text").focus();
};
$("welcome").oncancel = (event) => { if (!me.room) event.preventDefault(); };
$("cancel").onclick = () => $("welcome").close();
$("rename").onclick = () => { closeDrawer(); ask(); };
$("composer").onsubmit = (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  $("text").focus();
  if (!text) return;
  if (room?.state !== "subscribed") return client.reconnect();
  say(text);
  $("text").value = "";
  fit();
  toBottom();
};
$("text").oninput = fit;
$("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("composer").requestSubmit(); }
};
$("new-room").onsubmit = (event) => {
  event.preventDefault();
  const name = $("new-room-name").value.trim();
  $("new-room-name").value = "";
  if (name) location.hash = encodeURIComponent(name);
};
function closeDrawer() { if ($("app").classList.contains("drawer")) openDrawer(false); }
addEventListener("hashchange", () => {
  closeDrawer();
  if (me.room && roomInAddress() !== me.room) enter(me.wanted, roomInAddress());
});
addEventListener("keydown", (event) => { if (event.key === "Escape") closeDrawer(); });
matchMedia("(max-width: 44rem)").addEventListener("change", closeDrawer);
$("menu").onclick = () => openDrawer(true);
$("shut").onclick = $("scrim").onclick = closeDrawer;
$("newer").onclick = toBottom;
$("log").onscroll = () => {
  const log = $("log");
  stick = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  if (stick) $("newer").hidden = true;
};
new ResizeObserver(() => { if (stick) toBottom(); }).observe($("log"));
// On iOS the keyboard covers the page instead of shrinking it.
window.visualViewport?.addEventListener("resize", () => {
  if (visualViewport.scale === 1) document.documentElement.style.setProperty("--height", visualViewport.height + "px");
});

$("text").value = recall("sessionStorage", "draft");
fit();
me.wanted = recall("sessionStorage", "name");
if (me.wanted) enter(me.wanted, roomInAddress()); else ask();
