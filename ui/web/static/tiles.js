// Repeats of one image on a canvas that can be dragged. Patterns wrap when they are filtered, so the canvas adds no seam of
// its own, and small views come from halved copies, whose pixels never mix the two sides of a border.

function makeTiles(canvas) {
  const look = { tiles: 2, x: 0, y: 0, marks: true, repeat: "repeat" };
  const state = { levels: [], waiting: false };

  function show(image) {
    state.levels = [image];
    let last = image, width = image.naturalWidth, height = image.naturalHeight;
    while (Math.min(width, height) > 64) {
      const half = document.createElement("canvas");
      half.width = width = Math.max(1, width >> 1); half.height = height = Math.max(1, height >> 1);
      const pen = half.getContext("2d");
      pen.imageSmoothingQuality = "medium";
      pen.drawImage(last, 0, 0, width, height);
      state.levels.push(half);
      last = half;
    }
    draw();
  }

  function paint() {
    state.waiting = false;
    const box = canvas.getBoundingClientRect(), dense = Math.min(window.devicePixelRatio || 1, 2);
    if (!state.levels.length || box.width < 2 || box.height < 2) return;
    canvas.width = Math.round(box.width * dense); canvas.height = Math.round(box.height * dense);
    const pen = canvas.getContext("2d"), full = state.levels[0];
    const side = Math.min(canvas.width, canvas.height) / look.tiles;
    const longest = Math.max(full.naturalWidth, full.naturalHeight);
    const scale = side / longest, wide = full.naturalWidth * scale, high = full.naturalHeight * scale;
    const level = Math.min(state.levels.length - 1, Math.max(0, Math.floor(Math.log2(1 / scale) + 0.5)));
    const image = state.levels[level], pixels = [image.naturalWidth || image.width, image.naturalHeight || image.height];
    const left = canvas.width / 2 + look.x * wide, top = canvas.height / 2 + look.y * high;
    const pattern = pen.createPattern(image, look.repeat);
    pattern.setTransform(new DOMMatrix([wide / pixels[0], 0, 0, high / pixels[1], left, top]));
    pen.imageSmoothingEnabled = scale < 3; // above, one wants to see the pixels
    pen.fillStyle = pattern;
    pen.fillRect(0, 0, canvas.width, canvas.height);
    if (look.marks) marks(pen, left, top, wide, high, dense);
    canvas.dataset.drawn = String(1 + Number(canvas.dataset.drawn || 0));
  }

  // notches on the frame where borders meet it: lines across would hide what they point at
  function marks(pen, left, top, wide, high, dense) {
    const long = 9 * dense, half = 4.5 * dense;
    pen.fillStyle = "#ffffff"; pen.strokeStyle = "#10201d"; pen.lineWidth = dense;
    const notch = (x, y, dx, dy) => {
      pen.beginPath();
      pen.moveTo(x + dx * long, y + dy * long);
      pen.lineTo(x + dy * half, y + dx * half); pen.lineTo(x - dy * half, y - dx * half);
      pen.closePath(); pen.fill(); pen.stroke();
    };
    if (wide < 24 * dense || high < 24 * dense) return;
    for (let x = ((left % wide) + wide) % wide; x <= canvas.width; x += wide) { notch(x, 0, 0, 1); notch(x, canvas.height, 0, -1); }
    for (let y = ((top % high) + high) % high; y <= canvas.height; y += high) { notch(0, y, 1, 0); notch(canvas.width, y, -1, 0); }
  }

  function draw() {
    if (!state.waiting) { state.waiting = true; requestAnimationFrame(paint); }
  }

  // by CSS pixels; the offset stays between -0.5 and 0.5 tiles
  function move(dx, dy) {
    const full = state.levels[0];
    if (!full) return;
    const box = canvas.getBoundingClientRect(), scale = Math.min(box.width, box.height) / look.tiles / Math.max(full.naturalWidth, full.naturalHeight);
    const turn = (x) => x - Math.round(x);
    look.x = turn(look.x + dx / (full.naturalWidth * scale)); look.y = turn(look.y + dy / (full.naturalHeight * scale));
    draw();
  }

  new ResizeObserver(draw).observe(canvas);
  return { look, draw, show, move };
}
