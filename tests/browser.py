"A Chromium that tests can drive with real keys: its debugging protocol through a pipe, nothing to install."
import fcntl, json, os, select, shutil, subprocess, time
from base64 import b64decode

NAMES = ('chromium', 'chromium-browser', 'google-chrome')
KEYS = dict(ArrowLeft=37, ArrowUp=38, ArrowRight=39, ArrowDown=40, Home=36, End=35, Tab=9, Enter=13, Space=32, Escape=27, Backspace=8)

def found(): return next(filter(None, map(shutil.which, NAMES)), None)

class Browser:
    "One window. `complaints` are errors in the console and uncaught exceptions, `requests` what was loaded"
    def __init__(self, profile):
        ours, theirs = zip(*(map(lambda fd: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20), pair) for pair in (os.pipe()[::-1], os.pipe())))
        self.to, self.back = ours
        def inherit(): os.dup2(theirs[0], 3); os.dup2(theirs[1], 4)
        cmd = [found(), '--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--hide-scrollbars',
               f'--user-data-dir={profile}', '--remote-debugging-pipe', 'about:blank']
        self.process = subprocess.Popen(cmd, preexec_fn=inherit, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for fd in theirs: os.close(fd)
        self.number, self.buffer, self.session = 0, b'', None
        self.complaints, self.requests, self.loaded = [], [], False
        page = next(o for o in self.ask('Target.getTargets')['targetInfos'] if o['type'] == 'page')
        self.session = self.ask('Target.attachToTarget', targetId=page['targetId'], flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'): self.ask(f'{domain}.enable')

    def close(self):
        self.process.kill()
        self.process.wait()
        for fd in (self.to, self.back): os.close(fd)

    def read(self, deadline):
        while b'\0' not in self.buffer:
            ready, _, _ = select.select([self.back], [], [], max(0, deadline - time.monotonic()))
            more = os.read(self.back, 1 << 20) if ready else b''
            if not more: raise TimeoutError('the browser does not answer')
            self.buffer += more
        message, _, self.buffer = self.buffer.partition(b'\0')
        return json.loads(message)

    def take(self, message):
        kind, params = message.get('method', ''), message.get('params', {})
        if kind == 'Page.loadEventFired': self.loaded = True
        if kind == 'Network.requestWillBeSent': self.requests.append(params['request']['url'])
        if kind == 'Runtime.exceptionThrown': self.complaints.append(params['exceptionDetails'].get('exception', {}).get('description', params['exceptionDetails']['text']))
        if kind == 'Runtime.consoleAPICalled' and params['type'] in ('error', 'warning'): self.complaints.append(str(params['args']))
        if kind == 'Log.entryAdded' and params['entry']['level'] == 'error': self.complaints.append(params['entry']['text'])

    def ask(self, method, timeout=60, **params):
        self.number += 1
        message = dict(id=self.number, method=method, params=params) | (dict(sessionId=self.session) if self.session else {})
        os.write(self.to, json.dumps(message).encode() + b'\0')
        deadline = time.monotonic() + timeout
        while (answer := self.read(deadline)).get('id') != self.number: self.take(answer)
        if 'error' in answer: raise RuntimeError(f'{method}: {answer["error"]["message"]}')
        return answer['result']

    def open(self, url):
        self.loaded = False
        self.ask('Page.navigate', url=url)
        deadline = time.monotonic() + 60
        while not self.loaded: self.take(self.read(deadline))

    def js(self, code):
        "The value of an expression in the page (promises are awaited)"
        result = self.ask('Runtime.evaluate', expression=code, returnByValue=True, awaitPromise=True)
        if 'exceptionDetails' in result: raise RuntimeError(result['exceptionDetails'].get('exception', {}).get('description'))
        return result['result'].get('value')

    def window(self, width, height=900, dark=False):
        self.ask('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.ask('Emulation.setEmulatedMedia', features=[dict(name='prefers-color-scheme', value='dark' if dark else 'light')])

    def press(self, *names, times=1):
        for name in names*times:
            key = dict(key=' ' if name == 'Space' else name, code=name, windowsVirtualKeyCode=KEYS[name])
            if name in ('Enter', 'Space'): key['text'] = '\r' if name == 'Enter' else ' '
            self.ask('Input.dispatchKeyEvent', type='keyDown', **key)
            self.ask('Input.dispatchKeyEvent', type='keyUp', **key)

    def write(self, text): self.ask('Input.insertText', text=text)

    def focus(self, selector): self.js(f'document.querySelector({json.dumps(selector)}).focus()')

    def picture(self, path, selector=None):
        "A PNG of the whole page, or of one element"
        box = f'document.querySelector({json.dumps(selector)})' if selector else 'document.documentElement'
        clip = self.js(f'(() => {{const r = {box}.getBoundingClientRect(); return {{x: r.x + scrollX, y: r.y + scrollY, width: r.width, height: r.height, scale: 1}}}})()')
        data = self.ask('Page.captureScreenshot', format='png', captureBeyondViewport=True, clip=clip)['data']
        path.write_bytes(b64decode(data))
