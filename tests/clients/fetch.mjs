// One request by Node's own `fetch`. NODE_USE_ENV_PROXY=1 makes it read the proxy variables, and
// NODE_EXTRA_CA_CERTS names the authority; neither is set here. Arguments and report as in seen.py.
import { parseArgs } from 'node:util';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    method: { type: 'string', default: 'GET' },
    header: { type: 'string', multiple: true, default: [] },
    data: { type: 'string' },
  },
});

const headers = values.header.map((line) => {
  const colon = line.indexOf(':');
  return [line.slice(0, colon).trim(), line.slice(colon + 1).trim()];
});

try {
  const answer = await fetch(positionals[0], {
    method: values.method,
    headers,
    body: values.data,
    redirect: 'manual',
    signal: AbortSignal.timeout(30_000),
  });
  console.log(JSON.stringify({
    client: `node ${process.version}`,
    status: answer.status,
    headers: Object.fromEntries(answer.headers),
    body: await answer.text(),
  }));
} catch (error) {
  // `fetch failed` says nothing; what happened is in the chain of causes.
  const detail = [];
  for (let at = error; at; at = at.cause) detail.push(`${at.code ?? at.name}: ${at.message}`);
  console.log(JSON.stringify({ error: error.name, detail: detail.join(' <- ') }));
  process.exitCode = 1;
}
