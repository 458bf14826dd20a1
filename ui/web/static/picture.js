// One picture on a canvas that can be dragged and looked at from near; with another one, before, to the left of a line.
// Positions are shares of the picture, so that both, of whatever size, lie on each other.

function makePicture(canvas) {
  const look = { zoom: 0, x: 0.5, y: 0.5, wipe: 0.5 };
  const state = { after: null, before: null, size: [1, 1], waiting: false, handle: { changed: () => {} } };

  const box = () => canvas.getBoundingClientRect();
  const fitting = () => Math.min(box().width / state.size[0], box().height / state.size[1]) || 1;
  // from the whole picture, or its own size where that is smaller, to eight pixels for one of it; evenly to the eye
  const least = () => Math.min(1, fitting());
  const span = () => Math.max(8, 4 * fitting()) / least();
  const scale = (zoom) => least() * span() ** zoom;
  const zoomOf = (at) => Math.log(at / least()) / Math.log(span());

  function hold() {
    const at = scale(look.zoom), around = box();
    const part = [around.width / (state.size[0] * at) / 2, around.height / (state.size[1] * at) / 2];
    // what fits is centred, also where rounding says that it just does not
    look.x = part[0] >= 0.499 ? 0.5 : Math.min(1 - part[0], Math.max(part[0], look.x));
    look.y = part[1] >= 0.499 ? 0.5 : Math.min(1 - part[1], Math.max(part[1], look.y));
  }

  function paint() {
    state.waiting = false;
    const around = box(), dense = Math.min(window.devicePixelRatio || 1, 2);
    if (!state.after || around.width < 2 || around.height < 2) return;
    hold();
    canvas.width = Math.round(around.width * dense); canvas.height = Math.round(around.height * dense);
    const pen = canvas.getContext("2d"), at = scale(look.zoom) * dense;
    const wide = state.size[0] * at, high = state.size[1] * at;
    const left = canvas.width / 2 - look.x * wide, top = canvas.height / 2 - look.y * high;
    const place = (image) => {
      pen.imageSmoothingEnabled = wide / image.naturalWidth < 3; // above, one wants to see the pixels
      pen.imageSmoothingQuality = "high";
      pen.drawImage(image, left, top, wide, high);
    };
    place(state.after);
    if (state.before) {
      const from = Math.max(0, left), to = Math.min(canvas.width, left + wide), line = from + look.wipe * (to - from);
      pen.save();
      pen.beginPath(); pen.rect(0, 0, line, canvas.height); pen.clip();
      place(state.before);
      pen.restore();
      pen.fillStyle = "#10201d"; pen.fillRect(line - 1.5 * dense, Math.max(0, top), 3 * dense, Math.min(canvas.height, high));
      pen.fillStyle = "#ffffff"; pen.fillRect(line - 0.5 * dense, Math.max(0, top), dense, Math.min(canvas.height, high));
    }
    canvas.dataset.drawn = String(1 + Number(canvas.dataset.drawn || 0));
  }

  function draw() {
    if (!state.waiting) { state.waiting = true; requestAnimationFrame(paint); }
  }

  const zoom = (to) => { look.zoom = to; draw(); };
  const told = (to) => { zoom(Math.max(0, Math.min(1, to))); state.handle.changed(); };
  const handle = {
    look, draw, zoom, scale,
    move: (dx, dy) => {
      look.x -= dx / (state.size[0] * scale(look.zoom)); look.y -= dy / (state.size[1] * scale(look.zoom));
      hold(); draw();
    },
    actual: () => told(zoomOf(1)),
    fit: () => told(zoomOf(fitting())),
    show: (after, before, size) => {
      Object.assign(state, { after, before, size });
      canvas.style.aspectRatio = String(Math.max(0.75, Math.min(2.4, size[0] / size[1])));
      Object.assign(look, { x: 0.5, y: 0.5 });
      told(zoomOf(fitting()));
    },
    changed: () => {},
  };
  state.handle = handle;
  new ResizeObserver(draw).observe(canvas);
  return handle;
}
