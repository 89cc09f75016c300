"""The HTTP service behind `app.py --api`: questions come in, texts and masks go out; see docs/service.md. No gradio.

app.py ─▶ serving.py ─▶ api.py      the addresses, and every error as JSON
                        messages.py what is sent and answered, typed; OpenAPI follows from it
                        reading.py  a request's body -> question and image, within the limits
                        desk.py     the queue: waiting questions are answered together
                        keys.py     who may ask
          client.py                 the other side, for Python programs
"""
