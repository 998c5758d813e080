// The page of `view`. `state` contains all settings; the shape and the images are requested again when it changes.
const byId = (id) => document.getElementById(id);
const viewer = byId('viewer');
const state = { seed: 0, a: 0, b: 1, mix: 0, truncation: 1, threshold: 0.5, renderer: 'run', azimuth: 30, elevation: 20 };
const THUMBNAILS = 12;
const EMPTY_BYTES = 100; // a GLB without a surface is smaller
let about;
let first = 0; // sample number of the first thumbnail
let saveTimer; // runs after the last camera change

const showMessage = (text) => { byId('message').textContent = text; };

/** The request parameters that select a shape. */
function shapeParameters(changes = {}) {
  const { seed, a, b, mix, truncation, threshold } = { ...state, ...changes };
  return { seed, a, b, mix, truncation, ...(about.shape === 'voxels' ? { threshold } : {}) };
}

const requestUrl = (path, parameters) => `${path}?${new URLSearchParams(parameters)}`;

async function request(path, parameters) {
  const response = await fetch(requestUrl(path, parameters));
  if (!response.ok) throw new Error(await response.text());
  return response;
}

/** Run one call of `work` at a time. Calls during it are merged into one call after it. */
function coalesce(work) {
  let running = false, again = false;
  return async () => {
    again = true;
    if (running) return;
    running = true;
    while (again) {
      again = false;
      try {
        await work();
        showMessage('');
      } catch (error) {
        showMessage(error instanceof TypeError ? 'the server has stopped: start view again and reload this page' : error.message);
      }
    }
    running = false;
  };
}

/** Call `use` with a temporary URL of a blob. */
async function withBlobUrl(blob, use) {
  const url = URL.createObjectURL(blob);
  try { await use(url); } finally { URL.revokeObjectURL(url); }
}

const loadSource = (element, url) => new Promise((resolve, reject) => {
  element.addEventListener('load', resolve, { once: true });
  element.addEventListener('error', () => reject(new Error('the browser cannot show this')), { once: true });
  element.src = url;
});

const updateShape = coalesce(async () => {
  const parameters = { ...shapeParameters(), texture: byId('untextured').checked ? 'off' : 'on' };
  byId('download').href = requestUrl('shape.glb', parameters);
  byId('download').download = `${about.name.replace(/\W+/g, '_')}_${state.seed}_${sampleLabel()}.glb`;
  byId('stage').toggleAttribute('data-busy', true);
  const blob = await (await request('shape.glb', parameters)).blob();
  const empty = blob.size < EMPTY_BYTES;
  byId('empty').hidden = !empty;
  viewer.style.visibility = empty ? 'hidden' : '';
  if (!empty) await withBlobUrl(blob, (url) => loadSource(viewer, url));
  byId('stage').toggleAttribute('data-busy', false);
  viewer.dataset.loaded = JSON.stringify(parameters);
});

function sampleLabel() {
  return state.mix === 0 || state.a === state.b ? `${state.a}` : state.mix === 1 ? `${state.b}` : `${state.a}to${state.b}_${state.mix}`;
}

const updateImages = coalesce(async () => {
  const view = { ...shapeParameters(), azimuth: state.azimuth, elevation: state.elevation, renderer: state.renderer };
  const background = byId('with-background').checked ? 'generated' : 'black';
  const images = { image: { ...view, kind: 'image', background } };
  const hasNormals = about.renderers[state.renderer].normals;
  byId('normals').parentElement.hidden = !hasNormals;
  if (hasNormals) images.normals = { ...view, kind: 'normals' };
  if (about.shape === 'mesh') for (const kind of ['texture', 'background']) images[kind] = { ...shapeParameters(), kind };
  for (const [kind, parameters] of Object.entries(images)) {
    await withBlobUrl(await (await request('image.png', parameters)).blob(), (url) => loadSource(byId(kind), url));
  }
  byId('image').dataset.loaded = JSON.stringify(images.image);
});

function updateThumbnails() {
  const thumbnails = byId('thumbnails');
  const view = about.shape === 'voxels' ? { azimuth: 30, elevation: 20 } : { azimuth: 0, elevation: 0, background: 'generated' };
  thumbnails.replaceChildren(...Array.from({ length: THUMBNAILS }, (_, i) => {
    const number = first + i, button = document.createElement('button'), image = new Image(), label = document.createElement('span');
    button.type = 'button';
    button.title = `sample ${number}`;
    button.dataset.number = number;
    image.alt = '';
    image.src = requestUrl('image.png', { ...shapeParameters({ a: number, b: number, mix: 0 }), ...view, size: 96 });
    label.textContent = number;
    button.append(image, label);
    button.onclick = () => selectSample(number);
    return button;
  }));
  markEnds();
}

function markEnds() {
  for (const button of byId('thumbnails').children) {
    const number = Number(button.dataset.number);
    const ends = (number === state.a ? 'A' : '') + (number === state.b ? 'B' : '');
    if (ends) button.dataset.end = ends; else delete button.dataset.end;
  }
}

function selectSample(number) {
  const end = document.querySelector('input[name=end]:checked').value;
  setState({ [end]: number, mix: end === 'a' ? 0 : 1 });
}

/** Apply changes to the state and update the page. */
function setState(changes, thumbnails = false) {
  Object.assign(state, changes);
  for (const name of ['seed', 'a', 'b', 'mix', 'truncation', 'threshold', 'renderer']) byId(name).value = state[name];
  for (const name of ['truncation', 'threshold']) byId(`${name}-value`).value = Number(state[name]).toFixed(2);
  saveState();
  updateShape();
  updateImages();
  if (thumbnails) updateThumbnails(); else markEnds(); // last, so that the shape does not wait for twelve images
}

/** Save the state in the page's address. */
function saveState() {
  history.replaceState(null, '', `#${new URLSearchParams(state)}`);
}

/** The state in the page's address. */
function savedState() {
  const saved = {};
  for (const [name, text] of new URLSearchParams(location.hash.slice(1))) {
    if (name === 'renderer' && text in about.renderers) saved[name] = text;
    else if (name !== 'renderer' && name in state && text && Number.isFinite(Number(text))) saved[name] = Number(text);
  }
  return saved;
}

function setCamera(azimuth, elevation) {
  const radius = about.shape === 'voxels' ? 0.65 : 1; // of the visible sphere: voxels fill the cube [-1/2, 1/2]³, meshes the unit ball
  viewer.cameraOrbit = `${azimuth}deg ${90 - elevation}deg ${radius / Math.sin(fov() * Math.PI / 360)}m`;
  viewer.jumpCameraToGoal();
}

const fov = () => about.fov ?? 30;

/** The integer in a field, or undefined if it is invalid or empty. */
const integerValue = (id) => (byId(id).validity.valid && byId(id).value !== '' ? Number(byId(id).value) : undefined);

function addListeners() {
  for (const name of ['mix', 'truncation', 'threshold']) byId(name).oninput = () => setState({ [name]: Number(byId(name).value) });
  for (const name of ['truncation', 'threshold']) byId(name).onchange = updateThumbnails;
  for (const name of ['a', 'b', 'seed']) byId(name).onchange = () => {
    const value = integerValue(name);
    setState(value === undefined ? {} : { [name]: value, ...(name === 'a' ? { mix: 0 } : name === 'b' ? { mix: 1 } : {}) }, name === 'seed');
  };
  byId('renderer').onchange = () => { state.renderer = byId('renderer').value; setState({}); };
  byId('untextured').onchange = updateShape;
  byId('with-background').onchange = updateImages;
  byId('resample').onclick = () => setState({ seed: Math.floor(Math.random() * 1e6), a: first, b: first + 1, mix: 0 }, true);
  byId('previous').onclick = () => { first = Math.max(0, first - THUMBNAILS); updateThumbnails(); };
  byId('next').onclick = () => { first = Math.min(1e6 - THUMBNAILS, first + THUMBNAILS); updateThumbnails(); };
  byId('front').onclick = () => setCamera(0, 0);
  byId('rotate').onchange = () => viewer.toggleAttribute('auto-rotate', byId('rotate').checked);
  viewer.addEventListener('camera-change', () => {
    const { theta, phi } = viewer.getCameraOrbit();
    const rotation = viewer.turntableRotation ?? 0;
    const degrees = (x) => Math.round(x * 1800 / Math.PI) / 10;
    const azimuth = degrees(theta - rotation), elevation = Math.max(-90, Math.min(90, degrees(Math.PI / 2 - phi)));
    if (azimuth === state.azimuth && elevation === state.elevation) return;
    Object.assign(state, { azimuth, elevation });
    clearTimeout(saveTimer);
    saveTimer = setTimeout(saveState, 300); // browsers limit the rate of address changes
    updateImages();
  });
  viewer.addEventListener('load', () => {
    const textured = about.shape === 'mesh' && !byId('untextured').checked;
    for (const material of viewer.model.materials) {
      material.setDoubleSided(true);
      material.pbrMetallicRoughness.setMetallicFactor(0);
      if (!textured) material.pbrMetallicRoughness.setBaseColorFactor([0.42, 0.47, 0.55, 1]);
    }
  });
}

async function start() {
  about = await (await request('about.json', {})).json();
  document.title = `${about.name} · unrender`;
  byId('name').textContent = about.name;
  byId('facts').textContent = `${about.method}, ${about.checkpoint} after ${about.kimg.toLocaleString('en', { maximumFractionDigits: 1 })} kimg`;
  document.body.dataset.shape = about.shape;
  byId('renderer').replaceChildren(...Object.entries(about.renderers).map(([name, { label }]) => new Option(label, name)));
  await customElements.whenDefined('model-viewer');
  const { seed, truncation, threshold } = about;
  const view = about.shape === 'voxels' ? { azimuth: 30, elevation: 20 } : { azimuth: 15, elevation: 5 };
  Object.assign(state, { seed, truncation, ...(threshold === null ? {} : { threshold }), ...view }, savedState());
  addListeners();
  viewer.fieldOfView = `${fov()}deg`;
  setCamera(state.azimuth, state.elevation);
  setState({}, true);
}

start().catch((error) => showMessage(error.message));
