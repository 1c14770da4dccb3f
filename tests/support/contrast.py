"""The contrast of the texts of a page, for tests in a browser."""

from __future__ import annotations

#: The lowest contrast of a text on the page, as WCAG 2 defines it, and the text. The colour behind an element is
#: that of the nearest element that has one.
LOWEST_CONTRAST = """
() => {
  const parts = color => color.match(/[\\d.]+/g).map(Number);
  const luminance = color => {
    const [r, g, b] = parts(color).slice(0, 3).map(value => value / 255)
      .map(value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    const color = getComputedStyle(element).backgroundColor;
    return parts(color)[3] === 0 ? behind(element.parentElement) : color;
  };
  let lowest = [21, ""];
  for (const element of document.body.querySelectorAll("*")) {
    const text = [...element.childNodes].find(node => node.nodeType === 3 && node.data.trim());
    if (!text) continue;
    const [one, other] = [getComputedStyle(element).color, behind(element)].map(luminance);
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < lowest[0]) lowest = [contrast, text.data];
  }
  return lowest;
}
"""
