#!/usr/bin/env bash
# Check GLB files with the glTF validator of Khronos and print its errors and warnings; exit status 1 if a file has errors.
# Needs node and npm. The validator is downloaded once into a cache.
#     bash scripts/validate_glb.sh FILE|DIRECTORY…
set -euo pipefail
VERSION=2.0.0-dev.3.10
cache="${UNRENDER_CACHE:-$HOME/.cache/unrender}/gltf-validator-$VERSION"

if [ $# = 0 ]; then
    echo "validate_glb: pass GLB files or directories of GLB files" >&2
    exit 2
fi
if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    echo "validate_glb: node and npm are required (Debian: apt-get install -y nodejs npm)" >&2
    exit 2
fi
if [ ! -d "$cache/node_modules/gltf-validator" ]; then
    mkdir -p "$cache"
    npm install --silent --no-audit --no-fund --prefix "$cache" "gltf-validator@$VERSION"
fi

NODE_PATH="$cache/node_modules" exec node - "$@" <<'JS'
const fs = require("fs"), path = require("path"), validator = require("gltf-validator");
const files = process.argv.slice(2).flatMap(p => !fs.statSync(p).isDirectory() ? [p] :
  fs.readdirSync(p, {recursive: true}).filter(f => f.endsWith(".glb")).map(f => path.join(p, f)).sort());
(async () => {
  let failed = files.length === 0;
  if (failed) console.error("validate_glb: no GLB files found");
  for (const file of files) {
    const {issues} = await validator.validateBytes(new Uint8Array(fs.readFileSync(file)), {maxIssues: 20});
    console.log(`${file}: ${issues.numErrors} errors, ${issues.numWarnings} warnings, ${issues.numInfos} notes`);
    for (const m of issues.messages.filter(m => m.severity < 2)) console.log(`  ${m.pointer || ""} ${m.code}: ${m.message}`);
    failed = failed || issues.numErrors > 0;
  }
  process.exit(failed ? 1 : 0);
})();
JS
