element.querySelector(".z-theme").addEventListener("click", () => {
  const dark = document.body.classList.toggle("dark");
  try {
    localStorage.setItem("zellige-theme", dark ? "dark" : "light");
  } catch (error) {
    // a browser that keeps nothing asks its system again next time
  }
});
