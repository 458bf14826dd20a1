() => {
  document.documentElement.lang = "en";
  let kept = null;
  try {
    kept = localStorage.getItem("zellige-theme");
  } catch (error) {
    kept = null;
  }
  if (kept) document.body.classList.toggle("dark", kept === "dark");
}
