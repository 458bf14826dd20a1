() => {
  document.documentElement.lang = "en";
  let kept = null;
  try {
    kept = localStorage.getItem("zellige-theme");
  } catch (error) {
    kept = null;
  }
  if (kept) document.body.classList.toggle("dark", kept === "dark");
  const splash = document.getElementById("z-splash");
  if (splash) splash.remove();
}
