// A click on an option chooses it at once, as in the original, and the page stays where it was
// scrolled to. The arrow keys only move between options: choosing is a step of the task, and
// passing over a value must not cost one.
"use strict";

const arrows = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 };
const place = "place before the choice";

document.documentElement.classList.add("js");
scrollTo(0, Number(sessionStorage.getItem(place)));
sessionStorage.removeItem(place);

for (const option of document.querySelectorAll("input[type=radio]")) {
  option.addEventListener("click", () => {
    sessionStorage.setItem(place, scrollY);
    option.form.requestSubmit();
  });
  option.addEventListener("keydown", (event) => {
    if (!(event.key in arrows)) return;
    event.preventDefault();
    const options = [...option.form.querySelectorAll("input[type=radio]:enabled")];
    const next = options.indexOf(option) + arrows[event.key];
    options[(next + options.length) % options.length].focus();
  });
}
