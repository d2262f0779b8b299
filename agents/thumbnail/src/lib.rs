//! Shrinks a PNG or JPEG image to fit a box, and gives it back as a PNG.
//!
//! The body is the image; the headers `width` and `height` are the box in pixels.

use std::io::Cursor;

use agent_sdk::{Failure, Output, Task};
use image::{DynamicImage, ImageFormat, ImageReader, Limits};

/// The box where a header is missing, in pixels.
const SIDE_DEFAULT: u32 = 128;

/// The largest box, in pixels: anything larger is no thumbnail.
const SIDE_MAX: u32 = 2048;

/// The largest image, in pixels on each side; 64 megapixels at most.
const SOURCE_SIDE_MAX: u32 = 8192;

/// How much memory the decoder may use. An image that would need more is rejected with words rather than stopped by
/// the agent's own memory limit, which the manifest puts above this.
const DECODE_BYTES_MAX: u64 = 128 * 1024 * 1024;

#[agent_sdk::agent]
fn handle(task: Task) -> Result<Output, Failure> {
    let width = side(&task, "width")?;
    let height = side(&task, "height")?;
    let image = shrink(&decode(&task.body)?, width, height);
    Ok(Output::new("image/png", encode(&image)?)
        .header("width", image.width().to_string())
        .header("height", image.height().to_string()))
}

fn side(task: &Task, name: &str) -> Result<u32, Failure> {
    let Some(value) = task.header(name) else {
        return Ok(SIDE_DEFAULT);
    };
    match value.parse() {
        Ok(side) if (1..=SIDE_MAX).contains(&side) => Ok(side),
        _ => Err(Failure::reject(format!("the header `{name}` must be a number from 1 to {SIDE_MAX}, not `{value}`"))),
    }
}

fn decode(bytes: &[u8]) -> Result<DynamicImage, Failure> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    if !matches!(reader.format(), Some(ImageFormat::Png | ImageFormat::Jpeg)) {
        return Err(Failure::reject("the body is neither a PNG nor a JPEG image"));
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(SOURCE_SIDE_MAX);
    limits.max_image_height = Some(SOURCE_SIDE_MAX);
    limits.max_alloc = Some(DECODE_BYTES_MAX);
    reader.limits(limits);
    reader.decode().map_err(|error| Failure::reject(format!("the image cannot be decoded: {error}")))
}

/// Fits the image into the box, keeping its proportions. One that fits already is left as it is.
fn shrink(image: &DynamicImage, width: u32, height: u32) -> DynamicImage {
    if image.width() <= width && image.height() <= height { image.clone() } else { image.thumbnail(width, height) }
}

fn encode(image: &DynamicImage) -> Result<Vec<u8>, Failure> {
    let mut png = Cursor::new(Vec::new());
    // The encoder knows fewer pixel formats than the decoder.
    let image = DynamicImage::ImageRgba8(image.to_rgba8());
    image.write_to(&mut png, ImageFormat::Png)?;
    Ok(png.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32) -> Vec<u8> {
        let image = image::RgbImage::from_fn(width, height, |x, y| image::Rgb([(x % 256) as u8, (y % 256) as u8, 0]));
        encode(&DynamicImage::ImageRgb8(image)).unwrap()
    }

    #[test]
    fn an_image_is_shrunk_within_its_box_in_its_proportions() {
        let small = shrink(&decode(&png(400, 200)).unwrap(), 64, 64);
        assert_eq!((small.width(), small.height()), (64, 32));
        let read_back = decode(&encode(&small).unwrap()).unwrap();
        assert_eq!((read_back.width(), read_back.height()), (64, 32));
    }

    #[test]
    fn an_image_that_fits_keeps_its_size() {
        let small = shrink(&decode(&png(10, 20)).unwrap(), 64, 64);
        assert_eq!((small.width(), small.height()), (10, 20));
    }

    #[test]
    fn what_is_no_whole_image_is_rejected() {
        assert!(matches!(decode(b"not an image"), Err(Failure::Reject { .. })));
        let mut cut = png(50, 50);
        cut.truncate(cut.len() / 2);
        assert!(matches!(decode(&cut), Err(Failure::Reject { .. })));
        let failure = decode(&png(SOURCE_SIDE_MAX + 1, 1)).unwrap_err();
        assert!(failure.message().contains("cannot be decoded"), "{failure}");
    }

    #[test]
    fn a_side_is_a_number_in_range() {
        let task = |value: &str| Task { headers: vec![("width".into(), value.into())], ..Task::default() };
        assert_eq!(side(&task("64"), "width"), Ok(64));
        assert_eq!(side(&task("64"), "height"), Ok(SIDE_DEFAULT));
        for value in ["0", "-1", "2049", "wide", ""] {
            assert!(matches!(side(&task(value), "width"), Err(Failure::Reject { .. })), "{value}");
        }
    }
}
