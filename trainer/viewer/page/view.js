// The page of `view`: what is chosen stands in `state`; shape and images are asked for as it changes.
const byId = (id) => document.getElementById(id);
const viewer = byId('viewer');
const state = { seed: 0, a: 0, b: 1, mix: 0, truncation: 1, threshold: 0.5, renderer: 'run', azimuth: 30, elevation: 20 };
const SAMPLES = 12; // in the strip
const NOTHING = 100; // bytes: a GLB without a surface is shorter
let about;
let first = 0;
let settled; // a timer, after the last turn

const say = (sentence) => { byId('said').textContent = sentence; };

/** What names a shape in a request. */
function shape(changes = {}) {
  const { seed, a, b, mix, truncation, threshold } = { ...state, ...changes };
  return { seed, a, b, mix, truncation, ...(about.shape === 'voxels' ? { threshold } : {}) };
}

const address = (path, parameters) => `${path}?${new URLSearchParams(parameters)}`;

async function fetched(path, parameters) {
  const answer = await fetch(address(path, parameters));
  if (!answer.ok) throw new Error(await answer.text());
  return answer;
}

/** One call at a time, and after it one more for all those that were asked for meanwhile. */
function latest(work) {
  let running = false, again = false;
  return async () => {
    again = true;
    if (running) return;
    running = true;
    while (again) {
      again = false;
      try {
        await work();
        say('');
      } catch (error) {
        say(error instanceof TypeError ? 'view has ended: start it again, then reload this page' : error.message);
      }
    }
    running = false;
  };
}

/** A blob's address for as long as `use` takes. */
async function lent(blob, use) {
  const url = URL.createObjectURL(blob);
  try { await use(url); } finally { URL.revokeObjectURL(url); }
}

const loaded = (element, url) => new Promise((resolve, reject) => {
  element.addEventListener('load', resolve, { once: true });
  element.addEventListener('error', () => reject(new Error('the browser cannot show this')), { once: true });
  element.src = url;
});

const drawShape = latest(async () => {
  const parameters = { ...shape(), surface: byId('plain').checked ? 'plain' : 'whole' };
  byId('download').href = address('shape.glb', parameters);
  byId('download').download = `${about.name.replace(/\W+/g, '_')}_${state.seed}_${named()}.glb`;
  byId('stage').toggleAttribute('data-busy', true);
  const blob = await (await fetched('shape.glb', parameters)).blob();
  const empty = blob.size < NOTHING;
  byId('nothing').hidden = !empty;
  viewer.style.visibility = empty ? 'hidden' : '';
  if (!empty) await lent(blob, (url) => loaded(viewer, url));
  byId('stage').toggleAttribute('data-busy', false);
  viewer.dataset.shown = JSON.stringify(parameters);
});

function named() {
  return state.mix === 0 || state.a === state.b ? `${state.a}` : state.mix === 1 ? `${state.b}` : `${state.a}to${state.b}_${state.mix}`;
}

const drawImages = latest(async () => {
  const from = { ...shape(), azimuth: state.azimuth, elevation: state.elevation, renderer: state.renderer };
  const wanted = { image: { ...from, kind: 'image', behind: byId('behind').checked ? 'background' : 'black' }, normals: { ...from, kind: 'normals' } };
  if (about.shape === 'mesh') for (const kind of ['texture', 'background']) wanted[kind] = { ...shape(), kind };
  const without = about.renderers[state.renderer].normals ? [] : ['normals'];
  for (const [kind, parameters] of Object.entries(wanted)) {
    byId(kind).parentElement.hidden = without.includes(kind);
    if (without.includes(kind)) continue;
    await lent(await (await fetched('image.png', parameters)).blob(), (url) => loaded(byId(kind), url));
  }
  byId('image').dataset.shown = JSON.stringify(wanted.image);
});

function drawStrip() {
  const strip = byId('strip');
  const view = about.shape === 'voxels' ? { azimuth: 30, elevation: 20 } : { azimuth: 0, elevation: 0, behind: 'background' };
  strip.replaceChildren(...Array.from({ length: SAMPLES }, (_, i) => {
    const number = first + i, button = document.createElement('button'), image = new Image(), label = document.createElement('span');
    button.type = 'button';
    button.title = `sample ${number}`;
    button.dataset.number = number;
    image.alt = '';
    image.src = address('image.png', { ...shape({ a: number, b: number, mix: 0 }), ...view, size: 96 });
    label.textContent = number;
    button.append(image, label);
    button.onclick = () => choose(number);
    return button;
  }));
  mark();
}

function mark() {
  for (const button of byId('strip').children) {
    const number = Number(button.dataset.number);
    const ends = (number === state.a ? 'A' : '') + (number === state.b ? 'B' : '');
    if (ends) button.dataset.end = ends; else delete button.dataset.end;
  }
}

function choose(number) {
  const end = document.querySelector('input[name=end]:checked').value;
  set({ [end]: number, mix: end === 'a' ? 0 : 1 });
}

/** Take changes over into the state and show what they change. */
function set(changes, strip = false) {
  Object.assign(state, changes);
  for (const name of ['seed', 'a', 'b', 'mix', 'truncation', 'threshold', 'renderer']) byId(name).value = state[name];
  for (const name of ['truncation', 'threshold']) byId(`${name}-value`).value = Number(state[name]).toFixed(2);
  remember();
  drawShape();
  drawImages();
  if (strip) drawStrip(); else mark(); // last: the shape should not wait for twelve images
}

/** The address keeps the state. */
function remember() {
  history.replaceState(null, '', `#${new URLSearchParams(state)}`);
}

function remembered() {
  const found = {};
  for (const [name, text] of new URLSearchParams(location.hash.slice(1))) {
    if (name === 'renderer' && text in about.renderers) found[name] = text;
    else if (name !== 'renderer' && name in state && text && Number.isFinite(Number(text))) found[name] = Number(text);
  }
  return found;
}

function look(azimuth, elevation) {
  const near = about.shape === 'voxels' ? 0.65 : 1; // voxels fill the cube [-1/2, 1/2]³, meshes the unit ball
  viewer.cameraOrbit = `${azimuth}deg ${90 - elevation}deg ${near / Math.sin(fov() * Math.PI / 360)}m`;
  viewer.jumpCameraToGoal();
}

const fov = () => about.fov ?? 30;

/** A whole number of a field, or undefined while there is none. */
const whole = (id) => (byId(id).validity.valid && byId(id).value !== '' ? Number(byId(id).value) : undefined);

function listen() {
  for (const name of ['mix', 'truncation', 'threshold']) byId(name).oninput = () => set({ [name]: Number(byId(name).value) });
  for (const name of ['truncation', 'threshold']) byId(name).onchange = drawStrip;
  for (const name of ['a', 'b', 'seed']) byId(name).onchange = () => {
    const value = whole(name);
    set(value === undefined ? {} : { [name]: value, ...(name === 'a' ? { mix: 0 } : name === 'b' ? { mix: 1 } : {}) }, name === 'seed');
  };
  byId('renderer').onchange = () => { state.renderer = byId('renderer').value; set({}); };
  byId('plain').onchange = drawShape;
  byId('behind').onchange = drawImages;
  byId('draw').onclick = () => set({ seed: Math.floor(Math.random() * 1e6), a: first, b: first + 1, mix: 0 }, true);
  byId('previous').onclick = () => { first = Math.max(0, first - SAMPLES); drawStrip(); };
  byId('next').onclick = () => { first = Math.min(1e6 - SAMPLES, first + SAMPLES); drawStrip(); };
  byId('front').onclick = () => look(0, 0);
  byId('turn').onchange = () => viewer.toggleAttribute('auto-rotate', byId('turn').checked);
  viewer.addEventListener('camera-change', () => {
    const { theta, phi } = viewer.getCameraOrbit();
    const turned = viewer.turntableRotation ?? 0;
    const degrees = (x) => Math.round(x * 1800 / Math.PI) / 10;
    const azimuth = degrees(theta - turned), elevation = Math.max(-90, Math.min(90, degrees(Math.PI / 2 - phi)));
    if (azimuth === state.azimuth && elevation === state.elevation) return;
    Object.assign(state, { azimuth, elevation });
    clearTimeout(settled);
    settled = setTimeout(remember, 300); // browsers refuse many changes a second
    drawImages();
  });
  viewer.addEventListener('load', () => {
    const textured = about.shape === 'mesh' && !byId('plain').checked;
    for (const material of viewer.model.materials) {
      material.setDoubleSided(true);
      material.pbrMetallicRoughness.setMetallicFactor(0);
      if (!textured) material.pbrMetallicRoughness.setBaseColorFactor([0.42, 0.47, 0.55, 1]);
    }
  });
}

async function start() {
  about = await (await fetched('about.json', {})).json();
  document.title = `${about.name} · unrender`;
  byId('name').textContent = about.name;
  byId('facts').textContent = `${about.method}, ${about.checkpoint} after ${about.kimg.toLocaleString('en', { maximumFractionDigits: 1 })} kimg`;
  document.body.dataset.shape = about.shape;
  byId('renderer').replaceChildren(...Object.entries(about.renderers).map(([name, { label }]) => new Option(label, name)));
  await customElements.whenDefined('model-viewer');
  const { seed, truncation, threshold } = about;
  const view = about.shape === 'voxels' ? { azimuth: 30, elevation: 20 } : { azimuth: 15, elevation: 5 };
  Object.assign(state, { seed, truncation, ...(threshold === null ? {} : { threshold }), ...view }, remembered());
  listen();
  viewer.fieldOfView = `${fov()}deg`;
  look(state.azimuth, state.elevation);
  set({}, true);
}

start().catch((error) => say(error.message));
