// What the page itself remembers: the open tab, in its address, and the question that is being typed, over a reload.
(() => {
  "use strict";
  const DRAFT = "uground-question";
  const prompt = () => document.querySelector("#ground-prompt textarea");
  const tabs = () => [...document.querySelectorAll("button[role=tab]")];
  const name = (tab) => tab.textContent.trim().toLowerCase();
  const wanted = () => new URLSearchParams(location.search).get("tab");

  const openWanted = () => {
    const tab = tabs().find((each) => name(each) === (wanted() ?? name(tabs()[0])));
    if (tab && tab.getAttribute("aria-selected") !== "true") tab.click();
  };

  const restoreDraft = () => {
    const box = prompt(), text = sessionStorage.getItem(DRAFT);
    if (!box || !text || box.value) return;
    box.value = text;
    box.dispatchEvent(new Event("input", { bubbles: true }));
  };

  const whenThere = (selector, action) => {
    if (document.querySelector(selector)) return void action();
    const watch = new MutationObserver(() => {
      if (!document.querySelector(selector)) return;
      watch.disconnect();
      action();
    });
    watch.observe(document, { childList: true, subtree: true });
  };

  // Gradio names what is empty, but not what it is, and gives the images of a gallery no name at all.
  const nameParts = () => {
    for (const empty of document.querySelectorAll("div.empty[aria-label]:not([role])")) empty.setAttribute("role", "img");
    for (const frame of document.querySelectorAll("button:not([aria-label]) > .image-frame")) {
      const caption = frame.parentElement.parentElement.querySelector(".caption-label");
      frame.parentElement.setAttribute("aria-label", caption?.textContent.trim() || "Image");
    }
    for (const image of document.querySelectorAll("button > .image-frame img, .thumbnail-item img")) if (image.alt) image.alt = "";  // its button is named
  };
  new MutationObserver(nameParts).observe(document, { childList: true, subtree: true, attributeFilter: ["alt"] });

  document.addEventListener("click", (event) => {
    const tab = event.isTrusted && event.target.closest?.("button[role=tab]");
    if (!tab || name(tab) === wanted()) return;
    const address = new URL(location.href);
    address.searchParams.set("tab", name(tab));
    history.pushState(null, "", address);
  });
  addEventListener("popstate", openWanted);
  // The question of an example belongs to its image, which a reload does not bring back; an answered one is done.
  addEventListener("pagehide", () => {
    if (prompt() && prompt().value !== sessionStorage.getItem(DRAFT)) sessionStorage.removeItem(DRAFT);
  });
  document.addEventListener("input", (event) => {
    if (event.target === prompt()) sessionStorage.setItem(DRAFT, event.target.value);
  });
  document.addEventListener("keydown", (event) => {
    // Enter ends a composition (Japanese, Chinese …) before it asks.
    if (event.target === prompt() && event.key === "Enter" && event.isComposing) event.stopPropagation();
  }, true);
  whenThere("button[role=tab]", () => wanted() && openWanted());
  whenThere("#ground-prompt textarea", restoreDraft);
})();
