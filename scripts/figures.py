"""Plots as the site and the notebooks keep them: SVG whose bytes don't change from run to run, and which follows a page's colours.

A notebook stores a plot as SVG, unless that is larger than `LARGEST` (many thousand points): then as PNG. On a page of the
site an SVG stands in the text itself: black becomes the colour of the text, white the colour of the page, its words are set in
the page's type, and its alternative text is read out.
"""
import html, re
from base64 import b64decode, b64encode
from io import BytesIO
from PIL import Image

LARGEST = 80_000 # bytes of an SVG; above, a plot is kept as PNG
HEAVY = 20_000   # characters of a PNG in Base64; above, the site makes it lighter
READABLE = 8     # pixels of a letter's height: on a phone a plot whose labels would be smaller is scrolled
PHONE = 400      # pixels that may be squeezed into a phone's 360
SVG, PNG = 'image/svg+xml', 'image/png'

def text(x): return x if isinstance(x, str) else ''.join(x or '')

def lean(svg):
    "An SVG of matplotlib's without what changes from run to run and what nobody sees: prolog, date, comments, thousandths of a point"
    def rounded(m): return re.sub(r'(\.\d\d)\d+', r'\1', m[0])
    svg = re.sub(r'\b(?:d|x|y|width|height|points)="[^"]*"', rounded, svg)
    svg = re.sub(r'<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>', '', svg, flags=re.S)
    return re.sub(r'>\s*\n\s*<', '>\n<', svg).strip() + '\n'

def one_picture(data, both=False):
    "The forms of a plot in an output's `data`, cut down to one: SVG, or PNG if that is too large (`both`: the PNG is kept in any case)"
    if SVG not in data: return data
    svg, rest = lean(text(data[SVG])), {k: v for k, v in data.items() if k != SVG}
    if len(svg.encode()) > LARGEST and PNG in data: return rest
    if not both: rest.pop(PNG, None)
    return {SVG: svg, **rest}

def still(output):
    "An output without its live widget: a page has no kernel to answer, so the HTML or text beside it is shown"
    for kind in [k for k in output.get('data', {}) if 'jupyter.widget' in k]: del output['data'][kind]
    return output

def short(path):
    "The data of a long curve in tenths of a point, on one line: half the characters, and nobody sees the difference"
    def tenths(m): return f'{float(m[0]):.1f}'.removesuffix('.0')
    if path[0].count('L') < 20: return path[0]
    return ' '.join(re.sub(r'-?\d+\.\d+', tenths, path[0]).split())

def themed(svg, alt, prefix):
    "An SVG of matplotlib's as part of a page; `prefix` keeps its ids apart from those of the page's other figures"
    svg = re.sub(r'<style type="text/css">.*?</style>', '', svg, flags=re.S)
    size = re.search(r'\bwidth="([\d.]+)pt"', svg)
    wide = round(float(size[1])*4/3) if size else 640
    body = re.sub(r'<svg\b.*?>', '', svg[svg.index('<svg'):], count=1, flags=re.S)
    body = re.sub(r'\bd="[^"]*"', short, body)
    box = re.search(r'\bviewBox="([^"]*)"', svg)[1]
    used = {*re.findall(r'url\(#([^)]+)\)', body)} | {*re.findall(r'href="#([^"]+)"', body)}
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else '', body)
    body = re.sub(r'(url\(#|href="#)', rf'\1{prefix}-', body)
    body = re.sub(r'''(font(?:-family)?:[^;"]*?)(?:'[^']*'(?:,\s*)?)+(?:,?\s*sans-serif)?''', r'\1sans-serif', body)
    body = re.sub(r'<text\b[^>]*>', lambda m: m[0].replace('#ffffff', 'white'), body) # on a bar, in any theme
    body = body.replace('#ffffff', 'var(--color-background-primary, #fff)').replace('#000000', 'currentColor')
    letters = sorted(map(float, re.findall(r'\bfont(?:-size)?:[^;"]*?([\d.]+)px', body))) or [10.]
    least = READABLE/letters[len(letters)//2]*float(box.split()[2])
    return (f'<svg class="plot" role="img" aria-label="{html.escape(alt, quote=True)}" viewBox="{box}" style="max-width: {wide}px{f"; min-width: {least:.0f}px" if least > PHONE else ""}" '
            f'xmlns:xlink="http://www.w3.org/1999/xlink">{body}')

def kinds(output):
    "What a style sheet should know of a PNG: `wide`, so that a phone scrolls it; `paper`, lines on white, which are turned in the dark (the colours of a heat map mean something)"
    if PNG not in output.get('data', {}): return []
    image = Image.open(BytesIO(b64decode(text(output['data'][PNG])))).convert('L')
    white = sum(image.histogram()[250:])/(image.width*image.height)
    return ['wide']*(image.width > 800) + ['paper']*(white > .75)

def light(png):
    "A PNG, as Base64, with 48 colours, which is a third of the bytes and as good for a plot"
    out = BytesIO()
    Image.open(BytesIO(b64decode(png))).convert('RGB').quantize(48, dither=Image.Dither.NONE).save(out, 'png', optimize=True)
    return min(b64encode(out.getvalue()).decode(), png, key=len)

def drawn(output, alt, prefix):
    "An output whose plot, if it is an SVG, has become part of the page; a large PNG becomes a lighter one"
    data = output.get('data', {})
    if len(data.get(PNG, '')) > HEAVY: data[PNG] = light(text(data[PNG]))
    if SVG in data: output['data'] = {'text/html': themed(text(data[SVG]), alt, prefix)}
    return output
