"""The server's description of itself, /docs, in a headless Chromium."""

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("playwright", reason="needs playwright")

from browser import CHROMIUM, check_and_picture, chromium, open_page
from serving_fixture import SMALL, running

from blip_jax.serving.service import Service

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]


@pytest.mark.parametrize("width", [1200, 390])
def test_docs_show_the_fields_of_a_request(model, width):
    service = Service([model("captioner")], SMALL)
    service.start = lambda: None  # nothing is compiled
    with running(service, warm=False) as server, chromium() as browser:
        page = open_page(browser, server.url, "/docs", width)
        page.locator("#operations-default-caption_v1_caption_post, .opblock-post").first.click()
        page.get_by_role("tab", name="Schema").or_(page.get_by_text("Schema")).first.click()
        page.get_by_text("top_p").first.wait_for()
        check_and_picture(page, f"docs-{width}")
        page.close()
