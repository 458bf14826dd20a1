"use strict";
// Cards of results; pressing one tells its index. Titles are prompts of anybody and only ever become text.
const shelf = element.querySelector(".z-shelf");

function fill() {
  let cards = [];
  try {
    cards = JSON.parse(props.value);
  } catch (error) {
    cards = [];
  }
  const root = ((window.gradio_config && window.gradio_config.root) || "").replace(/\/$/, "");
  shelf.replaceChildren(...cards.map((card, index) => {
    const button = document.createElement("button"), image = document.createElement("img");
    const title = document.createElement("span"), when = document.createElement("small");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    image.src = root + card.image;
    image.alt = "";
    image.loading = "lazy";
    image.width = image.height = 150;
    title.textContent = card.title;
    when.textContent = card.when;
    button.append(image, title, when);
    button.addEventListener("click", () => {
      for (const other of shelf.children) other.setAttribute("aria-pressed", String(other === button));
      trigger("select", { index });
    });
    return button;
  }));
}

watch("value", fill);
fill();
