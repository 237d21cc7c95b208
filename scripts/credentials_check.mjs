// Verdicts of c2pa-node and c2pa-ts as JSON, for credentials_check.py: node FILE ROOT.pem PICTURE...
import { readFileSync } from "node:fs";
import { Reader } from "@contentauth/c2pa-node";
import { JPEG, PNG } from "@trustnxt/c2pa-ts/asset";
import { SuperBox } from "@trustnxt/c2pa-ts/jumbf";
import { ManifestStore } from "@trustnxt/c2pa-ts/manifest";

const [root, ...paths] = process.argv.slice(2);
const kinds = { jpg: "image/jpeg", png: "image/png", webp: "image/webp" };
const settings = {
  verify: { remote_manifest_fetch: false, ocsp_fetch: false, verify_trust: true },
  trust: { trust_anchors: readFileSync(root, "utf8") },
};
const none = (why) => ({ state: "none", is_trusted: null, problems: [why] });

async function byNode(path) {
  let reader;
  try {
    const asset = { path, mimeType: kinds[path.split(".").pop()] };
    reader = await Reader.fromAsset(asset, settings);
  } catch (error) {
    return { state: "invalid", is_trusted: false, problems: [String(error)] };
  }
  if (!reader) return none("no credentials");
  const found = reader.json();
  const problems = (found.validation_status ?? []).map((entry) => entry.code);
  const is_trusted = found.validation_state === "Trusted";
  const state = is_trusted || found.validation_state === "Valid" ? "valid" : "invalid";
  return { state, is_trusted, problems };
}

async function byTypeScript(path) {
  const data = readFileSync(path);
  const Kind = [JPEG, PNG].find((kind) => kind.canRead(data));
  if (!Kind) return undefined; // WebP
  try {
    const asset = new Kind(data);
    const boxes = asset.getManifestJUMBF();
    if (!boxes) return none("no credentials");
    const result = await ManifestStore.read(SuperBox.fromBuffer(boxes)).validate(asset);
    const problems = result.statusEntries.filter((entry) => !entry.success);
    const codes = problems.map((entry) => entry.code);
    return { state: result.isValid ? "valid" : "invalid", is_trusted: null, problems: codes };
  } catch (error) {
    return { state: "invalid", is_trusted: null, problems: [String(error)] };
  }
}

const found = { "c2pa-node": {}, "c2pa-ts": {} };
for (const path of paths) {
  found["c2pa-node"][path] = await byNode(path);
  found["c2pa-ts"][path] = await byTypeScript(path);
}
console.log(JSON.stringify(found));
