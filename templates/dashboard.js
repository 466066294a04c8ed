"use strict";
// Keeps the page fresh: the server renders it, this puts in what differs. Everything is there without it.
// It follows one stream (appliance/dashboard/live.py) and says when that ends. Nothing here grows with time.
(() => {
  const SILENT = 4000; // ms without a frame until contact is lost; one comes every second
  const AGAIN = 2000; // ms between two tries
  const ICONS = { Ready: "2e8b57", Reconciling: "3b7dd8", Suspended: "7a828c", Degraded: "d9822b" };
  const root = document.documentElement;
  const contact = document.getElementById("contact");
  const said = document.getElementById("said");
  const icon = document.querySelector("link[rel=icon]");
  const slots = new Map([...document.querySelectorAll(".slot")].map((slot) => [slot.dataset.part, slot]));

  let stream = null;
  let heard = Date.now(); // the newest frame, on this clock
  let tried = 0;
  let lost = false;
  let refused = false; // our key is not taken any more
  let ahead = root.dataset.at * 1000 - heard; // the server's clock against ours
  let title = document.title;

  // --- what the server rendered, into the page -------------------------------------------------------
  // Node by node, and only what differs: focus, selection and scrolling stay where they are.
  const morph = (old, fresh) => {
    if (old.nodeName !== fresh.nodeName) old.replaceWith(fresh);
    else if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
    } else {
      for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
      for (const { name, value } of fresh.attributes) {
        if (old.getAttribute(name) !== value) old.setAttribute(name, value);
      }
      children(old, fresh);
    }
  };
  const children = (old, fresh) => {
    const now = [...old.childNodes];
    const wanted = [...fresh.childNodes];
    wanted.forEach((node, at) => (at < now.length ? morph(now[at], node) : old.append(node)));
    for (const node of now.slice(wanted.length)) node.remove();
  };
  const put = (slot, markup) => {
    const made = document.createElement("template");
    made.innerHTML = markup;
    children(slot, made.content);
  };

  // --- times that count ------------------------------------------------------------------------------
  const ago = (seconds) => { // as appliance/dashboard/wording.py has it
    if (seconds < 5) return "now";
    for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
      if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`;
    }
    return `${Math.floor(seconds / 5) * 5} s ago`;
  };
  const count = () => {
    const now = Date.now() + ahead;
    for (const time of document.getElementsByTagName("time")) {
      const text = ago((now - Date.parse(time.dateTime)) / 1000);
      if (time.textContent !== text) time.textContent = text;
    }
  };

  // --- what is said aloud: what needs attention, once, and never a number that counts ------------------
  const needs = () => [...document.querySelectorAll("#attention .what strong")].map((one) => one.textContent).join(". ");
  let told = needs();
  const tell = () => {
    const now = needs();
    if (now === told) return;
    said.textContent = now ? `Attention: ${now}.` : "Nothing needs attention any more.";
    told = now;
  };

  // --- contact -----------------------------------------------------------------------------------------
  const say = () => {
    const why = refused ? " Its API key is not taken any more: load this page again to give another." : "";
    const since = new Date(heard).toLocaleTimeString();
    const text = lost ? `No contact since ${since}. What you see is from then.${why}` : "";
    if (contact.textContent !== text) contact.textContent = text;
    root.classList.toggle("lost", lost);
    document.title = lost ? `No contact: ${title}` : title;
  };
  const paint = () => {
    const colour = lost ? "7a828c" : ICONS[document.body.dataset.summary] ?? "c62f23";
    const href = `data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'><circle cx='4' cy='4' r='3.5' fill='%23${colour}'/></svg>`;
    if (icon.getAttribute("href") !== href) icon.setAttribute("href", href);
  };
  const frame = (event) => {
    const news = JSON.parse(event.data);
    if (news.build && news.build !== root.dataset.build) return location.reload(); // another version answers
    heard = Date.now();
    ahead = news.at * 1000 - heard;
    lost = refused = false;
    title = news.title;
    document.body.dataset.summary = news.summary;
    for (const [name, markup] of Object.entries(news.parts)) put(slots.get(name), markup);
    say();
    paint();
    tell();
    count();
  };
  const open = () => {
    tried = Date.now();
    stream?.close();
    stream = new EventSource("admin/events?view=page");
    stream.addEventListener("page", frame);
  };
  const ask = async () => { // a stream that is refused does not say why
    const answer = await fetch("./", { method: "HEAD", cache: "no-store" }).catch(() => null);
    refused = answer?.status === 401;
    say();
  };
  const watch = () => {
    const now = Date.now();
    if (now - heard > SILENT && !lost) {
      lost = true;
      say();
      paint();
    }
    const ended = stream.readyState === EventSource.CLOSED;
    if ((lost || ended) && now - tried > AGAIN) {
      if (ended) ask();
      open();
    }
    count();
  };
  paint();
  open();
  setInterval(watch, 1000);
  document.addEventListener("visibilitychange", watch);
})();
