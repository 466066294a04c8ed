"use strict";
// Keeps the page fresh: the server makes it, this only puts the new one in. Everything works without it.
(() => {
  const PAUSE = 2000; // ms between two looks at most
  const page = document.getElementById("page");
  const contact = document.getElementById("contact");
  let tag = "", due = false, busy = false, last = 0, since = null;

  const lost = (yes) => {
    if (!yes) since = null;
    else if (since === null) since = new Date();
    document.body.classList.toggle("lost", yes);
    contact.hidden = !yes;
    contact.textContent = yes ? `No contact since ${since.toLocaleTimeString()}: what you see is old.` : "";
  };

  const replace = (text) => {
    const fresh = new DOMParser().parseFromString(text, "text/html");
    const wanted = fresh.getElementById("page");
    if (wanted === null) return;
    document.title = fresh.title;
    // Sections one by one, and only those that differ: focus, selection and scrolling stay where they are.
    const old = [...page.querySelectorAll("header, section")];
    const now = [...wanted.querySelectorAll("header, section")];
    const name = (part) => part.id || part.getAttribute("aria-labelledby") || part.tagName;
    if (old.map(name).join() !== now.map(name).join()) {
      page.replaceChildren(...wanted.childNodes);
      return;
    }
    old.forEach((part, index) => {
      if (part.innerHTML === now[index].innerHTML) return;
      const inside = part.contains(document.activeElement);
      const scrolled = [...part.querySelectorAll(".log, .wide, .diff")].map((box) => [box.scrollTop, box.scrollLeft]);
      if (inside && document.activeElement.matches(".wide, .diff")) {
        const at = [...part.querySelectorAll(".wide, .diff")].indexOf(document.activeElement);
        part.innerHTML = now[index].innerHTML;
        part.querySelectorAll(".wide, .diff")[at]?.focus({ preventScroll: true });
      } else part.innerHTML = now[index].innerHTML;
      part.querySelectorAll(".log, .wide, .diff").forEach((box, number) => {
        if (scrolled[number]) [box.scrollTop, box.scrollLeft] = scrolled[number];
      });
    });
  };

  const look = async () => {
    due = false;
    if (busy || document.visibilityState === "hidden") return;
    busy = true;
    last = Date.now();
    try {
      const answer = await fetch("./", { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
      if (answer.status === 200) {
        tag = answer.headers.get("etag") || "";
        replace(await answer.text());
      }
      if (answer.ok || answer.status === 304) lost(false);
    } catch {
      lost(true);
    } finally {
      busy = false;
    }
  };

  const soon = () => {
    if (due) return;
    due = true;
    setTimeout(look, Math.max(0, last + PAUSE - Date.now()));
  };

  const events = new EventSource("admin/events");
  events.addEventListener("telemetry", soon);
  events.onopen = soon;
  events.onerror = () => { lost(true); setTimeout(soon, PAUSE); };
  document.addEventListener("visibilitychange", soon);
})();
