// One call by a client library, with nothing but the sealed token in KEY: no proxy, no roots of its own.
// Usage: transparent.mjs CLIENT. The modules are those of TOLLGATE_TEST_MODULES; reports as in seen.py.
import http2 from 'node:http2';
import https from 'node:https';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const KEY = process.env.KEY;
const URL_ = 'https://api.example.com/v1/items';
const headers = { authorization: `Bearer ${KEY}` };
const require = createRequire(pathToFileURL(`${process.env.TOLLGATE_TEST_MODULES}/none.js`));
const load = async (name) => import(pathToFileURL(require.resolve(name)));

const clients = {
  https: () => new Promise((resolve, reject) => {
    https.get(URL_, { headers }, (answer) => collect(answer).then(resolve, reject)).on('error', reject);
  }),
  fetch: async () => (await fetch(URL_, { headers })).text(),
  http2: () => new Promise((resolve, reject) => {
    const session = http2.connect(URL_).on('error', reject);
    const stream = session.request({ ':path': '/v1/items', ...headers });
    collect(stream).then(resolve, reject).finally(() => session.close());
  }),
  websocket: () => echoed(new WebSocket('wss://ws.example.com/socket', { headers })),
  undici: async () => {
    const { request } = await load('undici');
    return (await request(URL_, { headers })).body.text();
  },
  ws: async () => {
    const { default: Ws } = await load('ws');
    return echoed(new Ws('wss://ws.example.com/socket', { headers }));
  },
  axios: async () => {
    const { default: axios } = await load('axios');
    return JSON.stringify((await axios.get(URL_, { headers })).data);
  },
  got: async () => {
    // It exports to `import` alone, which `require.resolve` does not find.
    const { default: got } = await import(pathToFileURL(`${process.env.TOLLGATE_TEST_MODULES}/got/dist/source/index.js`));
    return got(URL_, { headers, retry: { limit: 0 } }).text();
  },
  openai: async () => {
    const { default: OpenAI } = await load('openai');
    const client = new OpenAI({ apiKey: KEY, maxRetries: 0 });
    const messages = [{ role: 'user', content: 'hello' }];
    let said = '';
    for await (const chunk of await client.chat.completions.create({ model: 'm', messages, stream: true })) {
      said += chunk.choices[0].delta.content ?? '';
    }
    return said;
  },
  anthropic: async () => {
    const { default: Anthropic } = await load('@anthropic-ai/sdk');
    const client = new Anthropic({ apiKey: KEY, maxRetries: 0 });
    const messages = [{ role: 'user', content: 'hello' }];
    return (await client.messages.create({ model: 'm', max_tokens: 8, messages })).content[0].text;
  },
  stripe: async () => {
    const { default: Stripe } = await load('stripe');
    return (await new Stripe(KEY, { maxNetworkRetries: 0, telemetry: false }).customers.list()).data[0].id;
  },
  s3: async () => {
    const { S3Client, ListObjectsV2Command, PutObjectCommand } = await load('@aws-sdk/client-s3');
    const client = new S3Client({ region: 'eu-west-1', forcePathStyle: true, maxAttempts: 1 });
    await client.send(new PutObjectCommand({ Bucket: 'bucket', Key: 'from-node', Body: 'hello' }));
    return (await client.send(new ListObjectsV2Command({ Bucket: 'bucket' }))).Contents[0].Key;
  },
  grpc: () => new Promise((resolve, reject) => load('@grpc/grpc-js').then(({ default: grpc }) => {
    const bytes = (value) => value;
    const client = new grpc.Client('grpc.example.com:443', grpc.credentials.createSsl());
    const metadata = new grpc.Metadata();
    metadata.set('authorization', `Bearer ${KEY}`);
    const answered = (error, answer) => (error ? reject(error) : resolve(answer.toString()));
    client.makeUnaryRequest(process.argv[3], bytes, bytes, Buffer.from('hello'), metadata, answered);
  })),
};

async function collect(stream) {
  let text = '';
  for await (const chunk of stream) text += chunk;
  return text;
}

function echoed(socket) {
  return new Promise((resolve, reject) => {
    socket.onopen = () => socket.send('hello from a socket');
    socket.onerror = (event) => reject(new Error(event.message || 'no 101'));
    socket.onmessage = (event) => { resolve(event.data); socket.close(); };
  });
}

const deadline = setTimeout(() => finish({ error: 'timeout', detail: 'nothing within 40 s' }, 1), 40_000);
try {
  finish({ said: await clients[process.argv[2]]() }, 0);
} catch (error) {
  const detail = [];
  for (let at = error; at; at = at.cause) detail.push(`${at.code ?? at.name}: ${at.message}`);
  finish({ error: error.name, detail: detail.join(' <- ') }, 1);
}

function finish(line, status) {
  clearTimeout(deadline);
  console.log(JSON.stringify(line));
  process.exit(status);
}
