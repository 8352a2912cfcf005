// A click on an option chooses it at once, as in the original. The arrow keys only move between
// options: choosing is a step of the task, and passing over a value must not cost one.
"use strict";

document.documentElement.classList.add("js");

const arrows = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 };

for (const option of document.querySelectorAll("input[type=radio]")) {
  option.addEventListener("click", () => option.form.requestSubmit());
  option.addEventListener("keydown", (event) => {
    if (!(event.key in arrows)) return;
    event.preventDefault();
    const options = [...option.form.querySelectorAll("input[type=radio]:enabled")];
    const place = options.indexOf(option) + arrows[event.key];
    options[(place + options.length) % options.length].focus();
  });
}
