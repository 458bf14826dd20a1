"use strict";
// On a narrow screen the note is below the form: bring it into view when work starts and when it ends.
let busy = false;
watch("value", () => {
  const now = Boolean(element.querySelector("progress"));
  const box = element.getBoundingClientRect();
  if (now !== busy && window.innerWidth <= 860 && box.height && (box.top < 0 || box.bottom > window.innerHeight)) {
    element.scrollIntoView({ block: "start" });
  }
  busy = now;
});
