"use strict";
const buttons = document.querySelectorAll("[data-show]");
for (const button of buttons) {
  button.addEventListener("click", () => {
    const wanted = button.dataset.show;
    for (const other of buttons) other.setAttribute("aria-pressed", other === button);
    for (const text of document.querySelectorAll(".text")) {
      text.hidden = wanted !== "all" && !text.dataset.tags.split(" ").includes(wanted);
    }
    for (const card of document.querySelectorAll(".card")) {
      card.hidden = !card.querySelector(".text:not([hidden])");
    }
  });
}
