// A solid with a material on it, in WebGL 2 and nothing else: relief from the height map, GGX, one light that turns.
// The look follows materials/shading.py: glTF's BRDF, spherical Gaussians for soft boxes, Khronos PBR Neutral.

const SOLID_VERTEX = `#version 300 es
precision highp float;
in vec3 position; in vec3 normal; in vec3 tangent; in vec2 uv;
uniform mat4 project; uniform mat3 turn; uniform vec3 eye;
uniform vec2 repeat; uniform float relief;
uniform sampler2D height;
out vec3 vPosition; out vec3 vNormal; out vec3 vTangent; out vec2 vUv;
void main() {
  vUv = uv * repeat;
  float h = textureLod(height, vUv, 0.0).r - 0.5;
  vec3 p = turn * (position + normal * h * relief);
  vPosition = p; vNormal = turn * normal; vTangent = turn * tangent;
  gl_Position = project * vec4(p - eye, 1.0);
}`;

const SOLID_FRAGMENT = `#version 300 es
precision highp float;
in vec3 vPosition; in vec3 vNormal; in vec3 vTangent; in vec2 vUv;
uniform vec3 eye; uniform vec3 light; uniform float flipped;
uniform sampler2D basecolor, normalMap, roughness, metallic, ao;
out vec4 colour;
const float PI = 3.14159265;

vec3 toLinear(vec3 c) { return mix(c / 12.92, pow((c + 0.055) / 1.055, vec3(2.4)), step(0.04045, c)); }
vec3 toSrgb(vec3 c) { return mix(c * 12.92, 1.055 * pow(max(c, 0.0031308), vec3(1.0 / 2.4)) - 0.055, step(0.0031308, c)); }

vec3 neutral(vec3 c) {
  const float start = 0.8 - 0.04, desaturation = 0.15;
  float x = min(c.r, min(c.g, c.b));
  c -= x < 0.08 ? x - 6.25 * x * x : 0.04;
  float peak = max(c.r, max(c.g, c.b));
  if (peak < start) return c;
  float d = 1.0 - start, squeezed = 1.0 - d * d / (peak + d - start);
  c *= squeezed / peak;
  return mix(c, vec3(squeezed), 1.0 - 1.0 / (desaturation * (peak - squeezed) + 1.0));
}

struct Look { vec3 f0; vec3 diffuse; float alpha; float rough; vec3 n; vec3 v; float nv; };

vec3 lit(Look s, vec3 l, vec3 strength) {
  float nl = dot(s.n, l);
  if (nl <= 0.0) return vec3(0.0);
  vec3 h = normalize(s.v + l);
  float nh = clamp(dot(s.n, h), 0.0, 1.0), fresnel = pow(1.0 - clamp(dot(s.v, h), 0.0, 1.0), 5.0);
  float a2 = s.alpha * s.alpha, q = nh * nh * (a2 - 1.0) + 1.0;
  float smith = nl * sqrt(s.nv * s.nv * (1.0 - a2) + a2) + s.nv * sqrt(nl * nl * (1.0 - a2) + a2);
  float specular = a2 / (q * q) * 0.5 / max(smith, 1e-4);
  vec3 mirrored = s.f0 + (1.0 - s.f0) * fresnel;
  return (s.diffuse * (1.0 - (0.04 + 0.96 * fresnel)) + mirrored * specular) * nl * strength;
}

vec3 soft(Look s, vec3 r, vec3 direction, vec3 strength, float sharp, inout vec3 irradiance) {
  float wrap = 1.0 / (1.0 + sharp);
  irradiance += strength * 2.0 / sharp * max((dot(s.n, direction) + wrap) / (1.0 + wrap), 0.0);
  float lobe = clamp(0.5 / (s.alpha * s.alpha * max(s.nv, 0.1)), 0.5, 4000.0);
  float wide = sharp * lobe / (sharp + lobe);
  return strength * wide / sharp * exp(wide * (dot(r, direction) - 1.0));
}

void main() {
  vec3 n = normalize(vNormal), t = normalize(vTangent - n * dot(n, vTangent)), b = cross(n, t);
  vec3 m = texture(normalMap, vUv).xyz * 2.0 - 1.0;
  float length1 = clamp(length(m), 0.05, 1.0);
  m /= length1;
  vec3 v = normalize(eye - vPosition);
  if (dot(n, v) < 0.0 && flipped > 0.5) n = -n;
  vec3 bent = normalize(t * m.x + b * m.y + n * m.z);
  vec3 base = toLinear(texture(basecolor, vUv).rgb);
  float rough = texture(roughness, vUv).r, metal = texture(metallic, vUv).r, open = texture(ao, vUv).r;
  float alpha = max(rough * rough, 0.003);
  // normals that differ within a pixel widen the highlight (Toksvig 2005)
  alpha = sqrt(min(1.0, alpha * alpha + min(0.4, (1.0 - length1) / length1)));
  Look s = Look(mix(vec3(0.04), base, metal), base * (1.0 - metal), alpha, sqrt(alpha), bent, v, clamp(dot(bent, v), 1e-3, 1.0));
  vec3 r = reflect(-v, bent);
  vec3 side = normalize(cross(vec3(0.0, 1.0, 0.05), light));
  vec3 sum = lit(s, light, vec3(2.15, 2.05, 1.9)) + lit(s, normalize(side + vec3(0.0, 0.2, 0.3)), vec3(0.2, 0.24, 0.3));
  vec3 ground = vec3(0.07, 0.067, 0.064), sky = vec3(0.34, 0.36, 0.39);
  vec3 irradiance = mix(ground, sky, bent.y * 0.5 + 0.5);
  vec3 radiance = mix(ground, sky, clamp(r.y / (0.35 + 0.65 * s.rough) * 0.5 + 0.5, 0.0, 1.0));
  radiance += soft(s, r, light, vec3(2.6, 2.5, 2.3), 30.0, irradiance);
  radiance += soft(s, r, normalize(side + vec3(0.0, 0.35, 0.3)), vec3(1.5, 1.65, 1.9), 40.0, irradiance);
  radiance += soft(s, r, normalize(vec3(0.1, 1.0, -0.25)), vec3(1.0, 1.0, 1.05), 7.0, irradiance);
  float k = min((1.0 - s.rough) * (1.0 - s.rough), exp2(-9.28 * s.nv)) * (1.0 - s.rough) - 0.0275 * s.rough + 0.0425;
  vec2 karis = vec2(-1.04 * k - 0.572 * s.rough + 1.04, 1.04 * k + 0.022 * s.rough - 0.04);
  float hidden = clamp(pow(s.nv + open, exp2(-16.0 * alpha - 1.0)) - 1.0 + open, 0.0, 1.0);
  sum += s.diffuse * irradiance * open + radiance * (s.f0 * karis.x + karis.y) * hidden;
  colour = vec4(toSrgb(clamp(neutral(sum), 0.0, 1.0)), 1.0);
}`;


const SOLID_MAPS = { basecolor: 0, normalMap: 1, height: 2, roughness: 3, metallic: 4, ao: 5 };
const SOLID_PLAIN = { basecolor: [128, 128, 128], normalMap: [128, 128, 255], height: [128, 128, 128], roughness: [160, 160, 160],
  metallic: [0, 0, 0], ao: [255, 255, 255] };
const SHAPES = {
  sphere: { grid: [256, 160], span: 2 * Math.PI, at: (u, v) => {
    const a = (u - 0.25) * 2 * Math.PI, b = (0.5 - v) * Math.PI * 0.998;
    return [-Math.cos(b) * Math.cos(a), Math.sin(b), Math.cos(b) * Math.sin(a)].map((x) => x * 1.06);
  }, ratio: 0.5, tilt: 0.12, twist: -0.35 },
  plane: { grid: [220, 220], span: 2.2, at: (u, v) => [(u - 0.5) * 2.2, (0.5 - v) * 2.2, 0], ratio: 1, tilt: -0.62, twist: 0.5 },
  cloth: { grid: [240, 200], span: 2.6, at: (u, v) => {
    const x = (u - 0.5) * 2.3, fall = v * v * 0.8 + v * 0.2;
    const fold = Math.sin(x * 4.6 + 0.7 * Math.sin(v * 3.1)) * 0.2 + Math.sin(x * 9.7 + 1.3) * 0.05;
    return [x * (1 - 0.1 * fall), (0.5 - v) * 2.1, fold * (0.12 + fall) + 0.25 * fall * Math.cos(x * 1.4)];
  }, ratio: 1, tilt: 0.1, twist: -0.3 },
};

function solidMesh(shape) {
  const [columns, rows] = shape.grid, count = (columns + 1) * (rows + 1), step = 1e-3;
  const data = new Float32Array(count * 11), index = new Uint32Array(columns * rows * 6);
  const minus = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
  const unit = (a) => { const l = Math.hypot(...a) || 1; return a.map((x) => x / l); };
  let i = 0;
  for (let row = 0; row <= rows; row++) for (let column = 0; column <= columns; column++) {
    const u = column / columns, v = row / rows, p = shape.at(u, v);
    const t = unit(minus(shape.at(u + step, v), shape.at(u - step, v)));
    const up = unit(minus(shape.at(u, v - step), shape.at(u, v + step)));
    const n = unit([t[1] * up[2] - t[2] * up[1], t[2] * up[0] - t[0] * up[2], t[0] * up[1] - t[1] * up[0]]);
    data.set([...p, ...n, ...t, u, v], i); i += 11;
  }
  let k = 0;
  for (let row = 0; row < rows; row++) for (let column = 0; column < columns; column++) {
    const a = row * (columns + 1) + column, b = a + columns + 1;
    index.set([a, b, a + 1, a + 1, b, b + 1], k); k += 6;
  }
  return { data, index };
}

// A view on `canvas`; throws where the browser has no WebGL 2. `look` may be changed, then call `draw`.
function makeSolid(canvas) {
  const gl = canvas.getContext("webgl2", { antialias: true, alpha: true, premultipliedAlpha: true });
  if (!gl) throw new Error("no WebGL 2");
  const look = { shape: "sphere", yaw: 0, pitch: 0, azimuth: -42, elevation: 42, tiles: 1, relief: 1, distance: 1 };
  const state = { program: null, meshes: {}, textures: {}, images: {}, ratio: 1, depth: 0, waiting: false, lost: false };

  function compile() {
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, SOLID_VERTEX], [gl.FRAGMENT_SHADER, SOLID_FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source); gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost()) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(program, shader);
    }
    ["position", "normal", "tangent", "uv"].forEach((name, place) => gl.bindAttribLocation(program, place, name));
    gl.linkProgram(program);
    state.program = program; state.meshes = {}; state.textures = {};
    for (const name of Object.keys(SOLID_MAPS)) upload(name, state.images[name]);
  }

  function upload(name, image) {
    const texture = state.textures[name] || gl.createTexture();
    state.textures[name] = texture;
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
    if (image) gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, image);
    else gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 1, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array([...SOLID_PLAIN[name], 255]));
    gl.generateMipmap(gl.TEXTURE_2D);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
    const sharp = gl.getExtension("EXT_texture_filter_anisotropic");
    if (sharp) gl.texParameterf(gl.TEXTURE_2D, sharp.TEXTURE_MAX_ANISOTROPY_EXT, 8);
  }

  function mesh(name) {
    if (state.meshes[name]) return state.meshes[name];
    const made = solidMesh(SHAPES[name]), array = gl.createVertexArray();
    gl.bindVertexArray(array);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, made.data, gl.STATIC_DRAW);
    [3, 3, 3, 2].reduce((from, size, place) => {
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, size, gl.FLOAT, false, 44, from);
      return from + size * 4;
    }, 0);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, made.index, gl.STATIC_DRAW);
    return (state.meshes[name] = { array, count: made.index.length });
  }

  function paint() {
    state.waiting = false;
    const box = canvas.getBoundingClientRect(), dense = Math.min(window.devicePixelRatio || 1, 2);
    if (state.lost || box.width < 2 || box.height < 2) return;
    const width = Math.round(box.width * dense), height = Math.round(box.height * dense);
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    const shape = SHAPES[look.shape], own = mesh(look.shape), p = state.program;
    const yaw = look.yaw + shape.twist, pitch = look.pitch + shape.tilt;
    const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
    const turn = [cy, sp * sy, -cp * sy, 0, cp, sp, sy, -sp * cy, cp * cy];
    const near = 0.1, far = 50, view = 1 / Math.tan(0.24), aspect = width / height, fit = Math.min(1, aspect);
    const project = [view * fit / aspect, 0, 0, 0, 0, view * fit, 0, 0, 0, 0, (far + near) / (near - far), -1, 0, 0, 2 * far * near / (near - far), 0];
    const rad = Math.PI / 180, e = look.elevation * rad, a = look.azimuth * rad;
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0); gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    gl.useProgram(p);
    const at = (name) => gl.getUniformLocation(p, name);
    const across = look.tiles * (look.shape === "sphere" ? 2 : 1);
    gl.uniformMatrix4fv(at("project"), false, project);
    gl.uniformMatrix3fv(at("turn"), false, turn);
    gl.uniform3f(at("eye"), 0, 0, 5.2 * look.distance);
    gl.uniform3f(at("light"), Math.cos(e) * Math.sin(a), Math.sin(e), Math.cos(e) * Math.cos(a));
    gl.uniform2f(at("repeat"), across, across * state.ratio * shape.ratio);
    gl.uniform1f(at("relief"), state.depth * look.relief * shape.span / across);
    gl.uniform1f(at("flipped"), look.shape === "sphere" ? 0 : 1);
    for (const [name, unit] of Object.entries(SOLID_MAPS)) {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, state.textures[name]);
      gl.uniform1i(at(name), unit);
    }
    gl.bindVertexArray(own.array);
    gl.drawElements(gl.TRIANGLES, own.count, gl.UNSIGNED_INT, 0);
    canvas.dataset.drawn = String(1 + Number(canvas.dataset.drawn || 0));
  }

  function draw() {
    if (!state.waiting) { state.waiting = true; requestAnimationFrame(paint); }
  }

  canvas.addEventListener("webglcontextlost", (event) => { event.preventDefault(); state.lost = true; });
  canvas.addEventListener("webglcontextrestored", () => { state.lost = false; compile(); draw(); });
  new ResizeObserver(draw).observe(canvas);
  compile();
  // images by the names of maps; ratio is width over height of the tile, depth its relief over its width
  const show = (images, ratio, depth) => {
    state.images = { ...images, normalMap: images.normal };
    state.ratio = ratio; state.depth = depth;
    for (const name of Object.keys(SOLID_MAPS)) upload(name, state.images[name]);
    draw();
  };
  return { look, draw, show, shape: () => SHAPES[look.shape] };
}
