// Names for screen readers, and code that scrolls by keyboard. The theme adds buttons to blocks of code later.
const name = () => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  document.querySelectorAll("pre > code").forEach((code) => { code.tabIndex = 0; });
  document.querySelectorAll("nav.md-code__nav").forEach((nav, at) => nav.setAttribute("aria-label", `Code ${at + 1}`));
};
name();
new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
